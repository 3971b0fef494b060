"""Whether a run can add to another one: what must be equal, checked before anything is read."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dinoforge.config import changed_keys, to_plain
from dinoforge.curated import find_base
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stages.embed import encoder_fingerprint
from dinoforge.curation.stored.generations import generation_fingerprint, open_generations
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError
from dinoforge.images import DECODER_VERSION
from dinoforge.stages import make_inputs
from dinoforge.stages.task import read_marker

__all__ = ["check_base", "check_base_unchanged"]

# Images are comparable, and admitted alike, only if these keys and sections are equal; the last
# ones if the base has seeds.
_EQUAL_KEYS = (
    *("duplicates.encoder", "decode", "filter", "duplicates.flat_std", "duplicates.verify.mode"),
    *("duplicates.background", "duplicates.background_weight"),
)
_SEED_KEYS = ("retrieve.mode", "retrieve.encoder", "retrieve.rules")

# Stages whose outputs are not read in a later run.
_UNREAD = frozenset(
    {
        "discover",
        "list",
        "recall",
        "proposals",
        "candidates",
        "check",
        "search",
        "clusters",
        "balance",
        "export",
    }
)


def check_base(config: CurationConfig, stages: Sequence[CurationStage]) -> None:
    """Check the base of a recipe, if it has one, and the runs which that one adds to.

    Raises
    ------
    UsageError
        If one is not finished, has changed since another was added to it, or was made with another
        encoder, decoder or version, or with other keys; the first fault.
    """
    base = find_base(Path(config.out), config.base)
    if base is None:
        return
    runs = [
        make_inputs("curation", stages, one.run_folder, one.config)
        for one in open_generations(base)
    ]
    for earlier, run in itertools.pairwise(runs):
        check_base_unchanged(earlier.run_folder, run)
    for run in runs:
        if fault := next(_faults(config, run, stages), None):
            raise UsageError(faults=[fault])


def check_base_unchanged(base: Path, run: CurationInputs) -> None:
    """Refuse a run whose base is no longer what it was when the images of the run were listed."""
    plan = json.loads((run.folder("ingest") / "plan.json").read_text(encoding="utf-8"))
    if plan["payloads"][0]["base"] != generation_fingerprint(base):
        raise UsageError(
            what="the base has changed since the run was added to it",
            where=f"{run.run_folder}, base {base}",
            do="run `dinoforge curate` there again",
        )


def _faults(
    config: CurationConfig, base: CurationInputs, stages: Sequence[CurationStage]
) -> Iterator[Fault]:
    yield from _other_keys(config, base)
    yield from _other_versions(config, base, stages)
    floor, where = base.config.duplicates.floor, f"base {base.run_folder}"
    verify, stored = config.duplicates.verify, base.config.duplicates.verify
    if verify.mode == "pixels" and verify.votes and not stored.votes:
        what = f"`duplicates.verify.votes` is {verify.votes}, the base was made with 0"
        yield Fault(what, where, "give duplicates.verify.votes=0")
    if verify.mode == "pixels" and verify.windows and not stored.windows:
        what = "`duplicates.verify.windows` is true, the base was made without"
        yield Fault(what, where, "give duplicates.verify.windows=false")
    for key in ("duplicates.threshold", "decontaminate.threshold"):
        if (threshold := _value(to_plain(config), key)) < floor:
            what = f"`{key}` is {threshold}, pairs of the base are stored above {floor} only"
            yield Fault(what, where, f"give {floor} or more")


def _other_keys(config: CurationConfig, base: CurationInputs) -> Iterator[Fault]:
    has_seeds = any(source.role == "seed" for source in base.config.sources)
    wanted = (*_EQUAL_KEYS, *(_SEED_KEYS if has_seeds else ()))
    old, new = to_plain(base.config), to_plain(config)
    for key in changed_keys(old, new):
        if any(f"{key}.".startswith(f"{name}.") for name in wanted):
            what = f"`{key}` is {_value(new, key)}, the base was made with {_value(old, key)}"
            yield Fault(what, f"base {base.run_folder}", f"give {key}={_value(old, key)}")


def _other_versions(
    config: CurationConfig, base: CurationInputs, stages: Sequence[CurationStage]
) -> Iterator[Fault]:
    where, do = f"base {base.run_folder}", "rerun the base with --update, or curate all in one run"
    specs = {"embed": config.duplicates.encoder}
    if config.retrieve.encoder == base.config.retrieve.encoder:
        specs["embed-meaning"] = config.retrieve.encoder
    for stage in stages:
        if stage.name in _UNREAD:
            continue
        if not (base.folder(stage.name) / "plan.json").is_file():
            yield Fault(f"the base was made before there was a stage {stage.name}", where, do)
            continue
        markers = base.files(stage.name, "done")
        marker = read_marker(markers[0]) if markers else None
        if marker is None:
            continue
        decoder = marker.version.partition("+")[2]
        if decoder and decoder != DECODER_VERSION:
            what = f"the base was made with the decoder {decoder}, this is {DECODER_VERSION}"
            yield Fault(what, where, do)
        elif marker.version != stage.version:
            what = f"the base was made with version {marker.version} of the stage {stage.name}"
            yield Fault(f"{what}, this is {stage.version}", where, do)
        spec = specs.get(stage.name)
        if spec and marker.facts["encoder"] != encoder_fingerprint(spec, config.precision):
            yield Fault(f"the base was made with another version of the encoder {spec}", where, do)


def _value(plain: dict[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    return value
