"""Sources to one index: every image a row, in the order of the recipe; no byte is moved."""

import fnmatch
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import MADE_BY_RUN
from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.index import INDEX_SCHEMA
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError
from dinoforge.randomness import KeyedPermutation
from dinoforge.shards import Problem, readable, summarize_reasons
from dinoforge.sources import Listing, discover_files
from dinoforge.sources.listing import list_files
from dinoforge.stages import Json, Output

__all__ = ["PROBLEMS_SCHEMA", "IngestStage"]

# What gave no image: one row a shard, member or file.
PROBLEMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("shard", "member", "reason", "detail")]
)


class IngestStage(CurationStage):
    """List the images of all sources; an image listed twice belongs to the first source."""

    name = "ingest"
    number = 10
    version = "1.1.0"
    keys = ("sources", "seed")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition: only names and tar headers are read.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again.
        """
        config = inputs.config
        faults: list[Fault] = []
        marks = []
        for source in config.sources:
            try:
                marks.append(discover_files(source.paths).fingerprint())
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        return [{"files": marks}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """List every source."""
        config = inputs.config
        folder = out.folder / "unpacked"
        tables: list[pa.Table] = []
        listings = [list_files(discover_files(s.paths), unpacked=folder) for s in config.sources]
        seen: set[tuple[str, int]] = set()
        for source, listing in zip(config.sources, listings, strict=True):
            rows = _chosen(listing.table, source, seen, config.seed)
            table = _relative(listing.table.take(rows), listing.unpacked, inputs.run_folder)
            tables.append(_indexed(table, source))
        _stop_when_empty(config, tables, listings)
        problems = _distinct(found for listing in listings for found in listing.problems)
        index = _with_class_numbers(pa.concat_tables(tables))
        image_id = pa.array(np.arange(index.num_rows))
        out.write_table("index", index.append_column("image_id", image_id), INDEX_SCHEMA)
        out.write_table(
            "problems", pa.Table.from_pylist(problems, PROBLEMS_SCHEMA), PROBLEMS_SCHEMA
        )
        for tar in sorted({tar for listing in listings for tar in listing.unpacked}):
            out.add(tar)
        return {
            "images": index.num_rows,
            "images_by_source": [table.num_rows for table in tables],
            "problems": dict(sorted(Counter(found["reason"] for found in problems).items())),
        }


def _distinct(problems: Iterable[Problem]) -> list[Problem]:
    """Keep one of equal problems: a path that two sources share has its problems once."""
    return list({tuple(found.values()): found for found in problems}.values())


def _relative(table: pa.Table, unpacked: Sequence[Path], run_folder: Path) -> pa.Table:
    """Name what the run unpacked by its path inside the run: the run may be moved.

    A source that lies in a folder of the same name is told from it by ``./``.
    """
    inside = {_name(tar): _name(tar.relative_to(run_folder)) for tar in unpacked}
    shards = table.column("shard").combine_chunks().dictionary_encode()
    names = [
        inside.get(name) or (f"./{name}" if name.startswith(MADE_BY_RUN) else name)
        for name in shards.dictionary.to_pylist()
    ]
    renamed = pa.DictionaryArray.from_arrays(shards.indices, pa.array(names, pa.string()))
    at = table.column_names.index("shard")
    return table.set_column(at, "shard", renamed.cast(pa.string()))


def _name(path: Path) -> str:
    return readable(os.fsencode(path))


def _chosen(
    table: pa.Table, source: SourceConfig, seen: set[tuple[str, int]], seed: int
) -> NDArray[np.int64]:
    """Rows of a source: its key pattern, minus what was taken before, up to its limit.

    One image is one place on disk, whatever path leads to it.
    """
    keys, places = table.column("key").to_pylist(), _real_places(table)
    taken = set(seen)
    rows = []
    for row, (key, place) in enumerate(zip(keys, places, strict=True)):
        if place not in taken and (not source.keys or fnmatch.fnmatchcase(key, source.keys)):
            taken.add(place)
            rows.append(row)
    if source.limit and source.limit < len(rows):
        if source.pick == "random":
            order = KeyedPermutation(len(rows), seed, f"limit {source.role} {source.name}")
            rows = sorted(rows[at] for at in order[np.arange(source.limit)].tolist())
        else:
            rows = rows[: source.limit]
    seen.update(places[row] for row in rows)
    return np.array(rows, np.int64)


def _real_places(table: pa.Table) -> list[tuple[str, int]]:
    """File without links, and offset in it, of every row."""
    real = cache(os.path.realpath)
    columns = (table.column(name).to_pylist() for name in ("shard", "offset"))
    return [(real(shard), offset) for shard, offset in zip(*columns, strict=True)]


def _indexed(table: pa.Table, source: SourceConfig) -> pa.Table:
    num = table.num_rows
    columns = {name: table.column(name) for name in table.column_names} | {
        "role": pa.array([source.role] * num, pa.string()),
        "source": pa.array([source.name or source.role] * num, pa.string()),
        "planted_from": pa.nulls(num, pa.int64()),
        "edit": pa.nulls(num, pa.string()),
    }
    return pa.table(columns)


def _with_class_numbers(index: pa.Table) -> pa.Table:
    """Give class folders of one name one number in all sources; `.cls` of tars stays as it is.

    A class folder called like a class of the tars is that class; the others are numbered behind
    the labels of the tars, so that no number means two things.
    """
    names, label = index.column("class_name"), index.column("label")
    in_folder = pc.and_(pc.equal(index.column("member"), ""), pc.not_equal(names, ""))
    in_tar = pc.and_(pc.invert(in_folder), pc.greater_equal(label, 0))
    tars = {"names": names.filter(in_tar), "labels": label.filter(in_tar)}
    known = pa.table(tars).group_by(["names", "labels"]).aggregate([]).sort_by("labels").to_pydict()
    numbers = {n: number for n, number in zip(*known.values(), strict=True) if n}
    free = max(known["labels"], default=-1) + 1
    new = sorted(set(pc.unique(names.filter(in_folder)).to_pylist()) - numbers.keys())
    numbers |= {name: free + at for at, name in enumerate(new)}
    row = pc.index_in(names, pa.array(list(numbers), pa.string()))
    number = pa.array(list(numbers.values()), pa.int32()).take(row)
    at = index.column_names.index("label")
    return index.set_column(at, "label", pc.if_else(in_folder, number, label))


def _stop_when_empty(
    config: CurationConfig, tables: list[pa.Table], listings: list[Listing]
) -> None:
    """Say which sources gave nothing; a curation of nothing is a mistake."""
    faults = []
    for source, table, listing in zip(config.sources, tables, listings, strict=True):
        if table.num_rows:
            continue
        pattern = f" under the key pattern {source.keys}" if source.keys else ""
        told = summarize_reasons(listing.problems)
        do = "check the paths, `keys`, and that no earlier source lists the same images"
        faults.append(Fault(f"no images{pattern}{told}", ", ".join(source.paths), do))
    if faults:
        raise UsageError(faults=faults)
