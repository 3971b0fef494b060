"""Parts of a mixture that a curation run lists: resolved before the training starts.

The recipe of a run holds the shards and weights that the curation had, so that curating again is a
changed recipe for a training that resumes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from dinoforge.config import suggest
from dinoforge.config.ranges import find_faults
from dinoforge.curated import PublishedPart, parts_path, read_parts
from dinoforge.errors import Fault, UsageError
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.parts import DataConfig, PartConfig

__all__ = ["count_published", "resolve_parts"]


def resolve_parts(config: TrainingConfig) -> TrainingConfig:
    """Replace every part with a `run` by the parts that the run lists.

    Raises
    ------
    UsageError
        A folder that is no curation or has no parts, a name that none of them has, weights that are
        all 0, two parts of one name.
    """
    published = _read(config.data)
    if not published:
        return config
    parts = [new for part in config.data.parts for new in _expand(part, config.data, published)]
    data = replace(config.data, parts=parts)
    if faults := list(find_faults(data, "data")):
        raise UsageError(faults=faults)
    return replace(config, data=data)


def count_published(config: TrainingConfig) -> dict[str, int]:
    """Return the images of every part that a curation lists, by name."""
    published, data = _read(config.data), config.data
    return {
        one.name: one.images
        for part in data.parts
        if part.run
        for one in _chosen(part, data, published)
    }


def _read(data: DataConfig) -> dict[str, list[PublishedPart]]:
    """Read the parts of every run; reports the faults of all at once."""
    published: dict[str, list[PublishedPart]] = {}
    faults: list[Fault] = []
    for number, part in enumerate(data.parts):
        if not part.run:
            continue
        try:
            published[part.run] = read_parts(Path(part.run))
        except UsageError as error:
            faults += error.faults
            continue
        names = [one.name for one in published[part.run]]
        if part.name and part.name not in names:
            hint = suggest(part.name, names)
            what = f"`data.parts[{number}].name` is `{part.name}`, which is no part of it{hint}"
            faults.append(Fault(what, part.run, f"its parts are {', '.join(names)}"))
    if faults:
        raise UsageError(faults=list(dict.fromkeys(faults)))
    return published


def _chosen(
    part: PartConfig, data: DataConfig, published: Mapping[str, list[PublishedPart]]
) -> list[PublishedPart]:
    """Return the part of a run that is named, or all that no other entry names."""
    named = {other.name for other in data.parts if other.run == part.run}
    every = published[part.run]
    return [one for one in every if (one.name == part.name if part.name else one.name not in named)]


def _expand(
    part: PartConfig, data: DataConfig, published: Mapping[str, list[PublishedPart]]
) -> Iterator[PartConfig]:
    if not part.run:
        yield part
        return
    chosen = _chosen(part, data, published)
    # By their decimal digits, as the order of images reads them.
    weights = [Fraction(1) if part.name else Fraction(str(one.weight)) for one in chosen]
    total = sum(weights, Fraction())
    if not total:
        what = "every weight is 0" if chosen else "other entries name all of its parts"
        do = "name its parts in data.parts, with weights" if chosen else "remove this entry"
        raise UsageError(what=what, where=str(parts_path(Path(part.run))), do=do)
    for one, weight in zip(chosen, weights, strict=True):
        share = float(Fraction(str(part.weight)) * weight / total)
        yield PartConfig(name=one.name, paths=[one.shards], weight=share, batches=part.batches)
