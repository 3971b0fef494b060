"""Images of one set that occur in another: a curation up to its leaks, without export.

The set that is searched has the role ``reference``, the images that are looked up the role
``pool``: references are compared with all others but not with each other, so a large set costs one
pass, and every image that is looked up has one row with the most similar image of the set.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.curation.stages.filter import stop_if_too_many_bad
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.stored.links import read_places
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.files import write_json, write_text
from dinoforge.runs import Run, working_folders
from dinoforge.stages import Executor, make_inputs, run_pipeline
from dinoforge.tables import read_table

__all__ = ["KINDS", "LEAKS_PIPELINE", "LeakedImage", "LeaksSummary", "SetCounts", "find_leaks"]

# How an image occurs in the other set, the surest first.
KINDS = ("same file", "same bytes", "same pixels", "near-duplicate")

_CSV, _PAGE, _SUMMARY = "leaks.csv", "leaks.html", "leaks.json"
_COLUMNS = ("image_id", "role", "source", "key", "shard", "member")
_SHOWN, _MISSES = 100, 12  # pairs on the page


@dataclass(frozen=True)
class LeakedImage:
    """An image with the most similar image of the set that was searched."""

    source: str
    key: str
    path: str
    member: str
    pool_source: str
    pool_key: str
    pool_path: str
    pool_member: str
    similarity: float  # cosine; of a pair that was compared on its pixels, correlation of these
    places: int | None  # that agree, of a pair that was compared on its pixels
    kind: str  # one of `KINDS`; "" for a pair that does not count
    image_id: int
    pool_image_id: int


@dataclass(frozen=True)
class SetCounts:
    """Images of one source that was looked up."""

    name: str
    images: int
    undecodable: int
    leaked: int
    kinds: dict[str, int]  # of the leaked images; sums to ``leaked``


@dataclass(frozen=True)
class LeaksSummary:
    """The answer of ``dinoforge leaks``."""

    pool_images: int
    threshold: float  # of the cosine
    not_verifiable: int | None  # pictures that the cosine decides about; None: all
    sets: list[SetCounts]
    leaks: list[LeakedImage]  # most similar first
    misses: list[LeakedImage]  # the most similar that do not count

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def find_leaks(config: CurationConfig, run: Run, executor: Executor) -> LeaksSummary:
    """Look up images of the role ``pool`` in those of the role ``reference``.

    Continues where it stopped. Writes ``leaks.csv``, ``leaks.json`` and ``leaks.html`` into the
    open run.

    Raises
    ------
    UsageError
        As `curation.pipeline.curate` does.
    """
    summary: LeaksSummary = run_pipeline(LEAKS_PIPELINE, run.folder, config, executor)
    return summary


def _stages_for(name: str) -> tuple[CurationStage, ...]:
    """Return a stage and all that it needs, in order."""
    wanted = {name}
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return tuple(stage for stage in STAGES if stage.name in wanted)


def _check(config: CurationConfig) -> None:
    if config.base:
        do = "name the run as POOL"
        raise UsageError(what="`base` is a key of `dinoforge curate`", where="command line", do=do)
    PIPELINE.check(config)


def _reopen(run_folder: Path) -> None:
    for name in (_SUMMARY, _CSV, _PAGE):
        (run_folder / name).unlink(missing_ok=True)


def _finish(run_folder: Path, config: CurationConfig) -> LeaksSummary:
    inputs = make_inputs(LEAKS_PIPELINE.name, LEAKS_PIPELINE.stages, run_folder, config)
    summary = _summarize(inputs)
    _write_csv(run_folder / _CSV, summary.leaks)
    write_text(run_folder / _PAGE, _make_page(inputs, summary))
    write_json(run_folder / _SUMMARY, summary.as_json())
    LEAKS_PIPELINE.account(run_folder, config, inputs.folders)
    undecodable = sum((Counter(f["undecodable"]) for f in inputs.facts("inspect")), Counter[str]())
    stop_if_too_many_bad(dict(undecodable), tables.num_images(inputs), config.max_bad_rate)
    return summary


def _summarize(inputs: CurationInputs) -> LeaksSummary:
    index = tables.read_index(inputs, list(_COLUMNS))
    facts = tables.read_facts(inputs, ["sha256", "pixels_sha256", "width"])
    shared = read_table(inputs.file("ingest", "shared.parquet"))
    rows = read_table(inputs.file("decontaminate", "leaks.parquet")).to_pylist()
    pairs = [(row["image_id"], row["reference_id"], row["similarity"]) for row in rows]
    described = _Rows(index, facts)
    leaks = [*described.same_files(shared), *(described.leak(*pair) for pair in pairs)]
    leaks.sort(key=lambda leak: (-leak.similarity, KINDS.index(leak.kind), leak.image_id))
    looked_up = index.filter(pc.not_equal(index.column("role"), "reference"))
    images = Counter(looked_up.column("source").to_pylist())
    images.update(shared.column("source").to_pylist())
    is_bad = pc.and_(pc.not_equal(index.column("role"), "reference"), pc.equal(facts["width"], 0))
    bad = Counter(index.filter(is_bad).column("source").to_pylist())
    sets = []
    for name, count in images.items():
        kinds = Counter(leak.kind for leak in leaks if leak.source == name)
        by_kind = {kind: kinds[kind] for kind in KINDS}
        sets.append(SetCounts(name, count, bad[name], kinds.total(), by_kind))
    return LeaksSummary(
        pool_images=index.num_rows - looked_up.num_rows,
        threshold=inputs.config.decontaminate.threshold,
        not_verifiable=_not_verifiable(inputs),
        sets=sets,
        leaks=_with_places(inputs, leaks),
        misses=_with_places(inputs, _misses(inputs, described, {leak.image_id for leak in leaks})),
    )


def _not_verifiable(inputs: CurationInputs) -> int | None:
    if inputs.config.duplicates.verify.mode == "none":
        return None
    pictures, without = (
        sum(facts[name] for facts in inputs.facts("keypoints"))
        for name in ("pictures", "not_verifiable")
    )
    return without if without < pictures else None


def _misses(inputs: CurationInputs, described: "_Rows", leaked: set[int]) -> list[LeakedImage]:
    (facts,) = inputs.facts("decontaminate")
    pairs = [pair for one in facts["references"].values() for pair in one["pairs"]]
    pairs = [pair for pair in pairs if pair["image_id"] not in leaked]
    pairs.sort(key=lambda pair: (-pair["similarity"], pair["image_id"]))
    nearest = {pair["image_id"]: pair for pair in reversed(pairs)}  # of several sets
    chosen = sorted(nearest.values(), key=lambda pair: (-pair["similarity"], pair["image_id"]))
    columns = ("image_id", "reference_id", "similarity")
    rows = [[pair[name] for name in columns] for pair in chosen[:_MISSES]]
    return [replace(described.leak(*row), kind="") for row in rows]


def _with_places(inputs: CurationInputs, pairs: Sequence[LeakedImage]) -> list[LeakedImage]:
    """Add in how many places pictures agree that were compared on their pixels."""
    content = tables.read_content(inputs)
    ends = [(pair.image_id, pair.pool_image_id) for pair in pairs]
    i, j = content[np.array(ends, np.int64).reshape(-1, 2)].T
    strength = np.array([pair.similarity for pair in pairs])
    places = read_places(inputs, i, j, strength).tolist()
    return [
        replace(pair, places=count) if count >= 0 else pair
        for pair, count in zip(pairs, places, strict=True)
    ]


class _Rows:
    """Rows of the index in words."""

    def __init__(self, index: pa.Table, facts: pa.Table) -> None:
        self._index, self._facts = index, facts

    def leak(self, image_id: int, pool_id: int, similarity: float) -> LeakedImage:
        """Describe one pair, and how the two are equal."""
        (image, bytes_a), (other, bytes_b) = self._row(image_id), self._row(pool_id)
        kind = KINDS[3]
        if bytes_a["sha256"] == bytes_b["sha256"]:
            kind = KINDS[1]
        elif bytes_a["pixels_sha256"] == bytes_b["pixels_sha256"]:
            kind = KINDS[2]
        return LeakedImage(
            **_named(image, ""),
            **_named(other, "pool_"),
            similarity=round(similarity, 6),
            places=None,
            kind=kind,
        )

    def same_files(self, shared: pa.Table) -> Iterator[LeakedImage]:
        """Describe the images that both sets list."""
        for row in shared.to_pylist():
            same = self.leak(row["image_id"], row["image_id"], 1.0)
            yield replace(same, source=row["source"], key=row["key"], kind=KINDS[0])

    def _row(self, image_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tables_ = (self._index, self._facts)
        row, facts = (table.slice(image_id, 1).to_pylist()[0] for table in tables_)
        return row, facts


def _named(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = {"source": "source", "key": "key", "path": "shard", "member": "member"}
    names["image_id"] = "image_id"
    return {prefix + name: row[column] for name, column in names.items()}


def _write_csv(path: Path, leaks: Sequence[LeakedImage]) -> None:
    file = io.StringIO()
    names = [name for name in LeakedImage.__dataclass_fields__ if not name.endswith("image_id")]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(leak, name) for name in names] for leak in leaks)
    write_text(path, file.getvalue())


def _make_page(inputs: CurationInputs, summary: LeaksSummary) -> str:
    from dinoforge.images import Undecodable, decode
    from dinoforge.pages.render import render
    from dinoforge.pages.thumbnails import Thumbnail, thumbnail

    reader = ImageReader(inputs.run_folder, working_folders(inputs.run_folder))

    def picture(image_id: int) -> Thumbnail | None:
        data = next(reader.read_each(tables.read_locations(inputs, image_id, image_id + 1)))
        try:
            return None if data is None else thumbnail(decode(data, inputs.config.decode), side=160)
        except Undecodable:
            return None

    half = _SHOWN // 2
    leaks = summary.leaks
    shown = leaks if len(leaks) <= _SHOWN else [*leaks[:half], *leaks[-half:]]
    return render(
        "leaks.html",
        folder=Path(__file__).resolve().parent / "templates",
        title=_title(summary),
        summary=summary,
        kinds=KINDS,
        shown=shown,
        picture=picture,
    )


def _title(summary: LeaksSummary) -> str:
    leaked, images = (sum(getattr(s, n) for s in summary.sets) for n in ("leaked", "images"))
    return f"{leaked:,} of {images:,} images occur in the pool"


LEAKS_PIPELINE = replace(
    PIPELINE, stages=_stages_for("decontaminate"), check=_check, reopen=_reopen, finish=_finish
)
