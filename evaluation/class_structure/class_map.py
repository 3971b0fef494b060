"""Class means of a labeled data set by several encoders, their map, and how far it is a taxonomy.

``dinoforge classes`` embeds images, correlates, records and draws the page.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.clusters.class_structure import class_means, feature_distances
from dinoforge.clusters.layouts import Layout, lay_out
from dinoforge.config.ranges import Device, PositiveInt, Range, Workers
from dinoforge.encoders.embedding import EmbedConfig, EmbeddingSummary, embed_images
from dinoforge.errors import UsageError
from dinoforge.evaluation.class_structure.correlation import Score, percentiles, score_structure
from dinoforge.evaluation.class_structure.page import ClassPage, EncoderMap, as_page
from dinoforge.evaluation.class_structure.taxonomy import ClassName, Distances, Tree, read_taxonomy
from dinoforge.files import hash_json, write_text
from dinoforge.images import DecodePolicy
from dinoforge.records import RECORDS, Record, write_records
from dinoforge.runs import git_commit
from dinoforge.sources.image_set import open_images
from dinoforge.sources.outputs import mark_cache
from dinoforge.tables import read_table

__all__ = ["ClassesConfig", "ClassesSummary", "map_classes"]

_FEWEST = 4  # classes: three have three pairs, of which nothing can be inferred
_PAGE = "classes.html"
_CLASS_COLUMNS = ["label", "class_space", "class_name"]


@dataclass(frozen=True, kw_only=True)
class ClassesConfig:
    """What ``dinoforge classes`` checks as a recipe is checked."""

    layout: Layout = "pca"
    resamples: Annotated[int, Range(100)] = 1000  # of the classes, for intervals
    permutations: Annotated[int, Range(99)] = 999  # of the classes, for p-values
    seed: int = 0  # of resamples, permutations and layouts
    batch_size: PositiveInt = 64
    device: Device = "cpu"
    workers: Workers = "auto"
    decode: DecodePolicy = field(default_factory=DecodePolicy)


@dataclass(frozen=True)
class ClassesSummary:
    """Where the page and the records are, and what they are of."""

    page: str
    records: str
    num_classes: int
    num_images: int  # with a class, decoded
    taxonomy: str
    scores: dict[str, dict[str, float]]  # encoder -> metric -> value


@dataclass(frozen=True)
class _Classes:
    """Classes of the images that decode: the class of every row of vectors, -1: none."""

    names: Sequence[ClassName]
    of_rows: NDArray[np.int64]

    @property
    def shown(self) -> list[str]:
        """Names to read; a name of several classes with the number."""
        counts = Counter(one.name for one in self.names)
        return [
            one.name.replace("_", " ") + (f" ({one.number})" if counts[one.name] > 1 else "")
            for one in self.names
        ]


def map_classes(
    paths: Sequence[str], encoders: Sequence[str], taxonomy: str, out: Path, config: ClassesConfig
) -> ClassesSummary:
    """Compare the classes of labeled images, as encoders see them, with a taxonomy.

    ``encoders`` are specs as in `make_encoder`, or NAME=SPEC; the first is compared with each of
    the others on the same resamples of classes. ``taxonomy`` is read by `read_taxonomy`. Writes
    ``classes.html``, ``records.jsonl`` and, in a folder per encoder, vectors, which a later call
    uses again.

    Raises
    ------
    UsageError
        For bad paths, encoders or a taxonomy, one that lacks a class, or fewer than four classes.
    """
    known, named = read_taxonomy(taxonomy), dict(_named(encoders))
    mark_cache(out / "cache")
    listed = open_images(paths, cache=out / "cache", policy=config.decode)
    _distances(known, _classes_of(listed.table), paths)  # before hours of features
    mapped = [_map_classes(name, spec, known, paths, out, config) for name, spec in named.items()]
    classes, taxonomy_CC = mapped[0][1:]
    for one, others, _ in mapped:
        if others.names != classes.names:
            what = f"{one.name} has vectors of other classes than {mapped[0][0].name}"
            raise UsageError(what=what, where=", ".join(paths), do="give vectors of all images")
    maps = [one for one, _, _ in mapped]
    num_images = int((classes.of_rows >= 0).sum())
    settings = {"taxonomy": Path(taxonomy).name, "classes": len(classes.names)}
    settings |= {"linkage": "average", "resamples": config.resamples}
    settings |= {"permutations": config.permutations, "seed": config.seed}
    write_records(out / RECORDS, _records(maps, paths, num_images, settings))
    page = ClassPage(
        maps=maps,
        differences=list(_differences(maps)),
        names=classes.shown,
        groups=known.groups(classes.names, ClassPage.MOST_GROUPS),
        taxonomy_CC=taxonomy_CC,
        layout=config.layout,
        num_images=num_images,
        settings=settings,
    )
    write_text(out / _PAGE, as_page(page))
    return ClassesSummary(
        page=str(out / _PAGE),
        records=str(out / RECORDS),
        num_classes=len(classes.names),
        num_images=num_images,
        taxonomy=taxonomy,
        scores={one.name: {m: score.value for m, score in one.scores.items()} for one in maps},
    )


def _map_classes(
    name: str,
    spec: str,
    known: Tree | Distances,
    paths: Sequence[str],
    out: Path,
    config: ClassesConfig,
) -> tuple[EncoderMap, _Classes, NDArray[np.float64]]:
    """Return what one encoder makes of the classes, the classes, and their distances."""
    embedded = _embed(paths, spec, out, config)
    table = read_table(Path(embedded.rows), columns=["row", *_CLASS_COLUMNS])
    classes = _classes_of(table.filter(pc.greater_equal(table["row"], 0)))
    taxonomy_CC = _distances(known, classes, paths)
    vectors_nD = np.load(embedded.embeddings, mmap_mode="r")
    means_CD = class_means(vectors_nD, classes.of_rows)
    distances_CC = feature_distances(means_CD)
    scores = score_structure(
        distances_CC,
        taxonomy_CC,
        resamples=config.resamples,
        permutations=config.permutations,
        seed=config.seed,
    )
    points_C2 = lay_out(means_CD, config.layout, config.seed, where="--layout tsne")
    return (
        EncoderMap(name, embedded.encoder, scores, points_C2, distances_CC),
        classes,
        taxonomy_CC,
    )


def _named(encoders: Sequence[str]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for text in encoders:
        name, equals, spec = text.partition("=")
        if not equals or ":" in name:  # in `checkpoint:a=b.pth` it belongs to the path
            name = spec = text
        if name in names or not name:
            what = f"two encoders are named {name}" if name else "an encoder has no name"
            raise UsageError(what=what, where="--encoder", do="write NAME=ENCODER")
        names.add(name)
        yield name, spec


def _embed(paths: Sequence[str], spec: str, out: Path, config: ClassesConfig) -> EmbeddingSummary:
    name = re.sub(r"[^\w.-]+", "_", spec.rpartition("/")[2])[:40]
    return embed_images(
        paths,
        encoder=spec,
        out=out / f"{name}-{hash_json(spec)[:8]}",
        batch_size=config.batch_size,
        config=EmbedConfig(device=config.device, workers=config.workers, decode=config.decode),
    )


def _classes_of(table: pa.Table) -> _Classes:
    rows: list[dict[str, Any]] = table.select(_CLASS_COLUMNS).to_pylist()
    keys = [
        ClassName(row["class_name"] or str(row["label"]), row["label"])
        if row["class_space"]
        else None
        for row in rows
    ]
    names = sorted({key for key in keys if key is not None}, key=lambda one: (one.number, one.name))
    numbers = {name: number for number, name in enumerate(names)}
    return _Classes(names, np.array([-1 if key is None else numbers[key] for key in keys]))


def _distances(
    known: Tree | Distances, classes: _Classes, paths: Sequence[str]
) -> NDArray[np.float64]:
    where = ", ".join(paths)
    if len(classes.names) < _FEWEST:
        raise UsageError(
            what=f"need images of at least {_FEWEST} classes, got {len(classes.names)}",
            where=where,
            do="give labeled images: a folder per class, or tars with .cls",
        )
    distances_CC = known.distances(classes.names)
    if np.ptp(distances_CC[np.triu_indices(len(distances_CC), 1)]) == 0:
        what = "all classes are equally far from one another"
        raise UsageError(what=what, where=known.path, do="give a taxonomy with levels")
    return distances_CC


def _records(
    maps: Sequence[EncoderMap], paths: Sequence[str], num_images: int, settings: Mapping[str, Any]
) -> Iterator[Record]:
    benchmark, commit = f"classes/{Path(paths[0]).name.partition('.')[0]}", git_commit()
    for one in maps:
        for metric, score in one.scores.items():
            yield Record(
                benchmark=benchmark,
                model=one.name,
                metric=metric,
                value=score.value,
                interval=score.interval,
                n=num_images,
                settings={**settings, "p_value": score.p_value},
                checkpoint=one.encoder,
                commit=commit,
            )
    for metric, name, value, interval in _differences(maps):
        yield Record(
            benchmark=benchmark,
            model=maps[0].name,
            metric=f"{metric}_difference",
            value=value,
            interval=interval,
            n=num_images,
            settings={**settings, "model_a": maps[0].name, "model_b": name},
            commit=commit,
        )


def _differences(
    maps: Sequence[EncoderMap],
) -> Iterator[tuple[str, str, float, tuple[float, float]]]:
    """Yield metric, encoder, and by how much the first encoder exceeds it, with its interval."""
    first, *others = maps
    for other in others:
        for metric, score in first.scores.items():
            against: Score = other.scores[metric]
            interval = percentiles(score.resampled - against.resampled)
            yield metric, other.name, score.value - against.value, interval
