"""Sources to one index: one row per image, in the order of the recipe; no byte is moved."""

import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import MADE_BY_RUN
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError
from dinoforge.randomness import KeyedPermutation
from dinoforge.shards.index import summarize_reasons
from dinoforge.shards.tar import readable
from dinoforge.sources.discover import discover_files
from dinoforge.sources.listing import Listing, list_files
from dinoforge.stages import Json, Output

__all__ = ["IngestStage"]


class IngestStage(CurationStage):
    """List the images of all sources; an image listed twice belongs to the first source."""

    name = "ingest"
    number = 10
    version = "1.2.0"
    keys = ("sources", "seed")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition: only names and tar headers are read.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again.
        """
        faults: list[Fault] = []
        marks = []
        for source in inputs.config.sources:
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
        indexed: list[pa.Table] = []
        listings = [list_files(discover_files(s.paths), unpacked=folder) for s in config.sources]
        seen: set[tuple[str, int]] = set()
        for source, listing in zip(config.sources, listings, strict=True):
            rows = _choose(listing.table, source, seen, config.seed)
            table = _relative(listing.table.take(rows), listing.unpacked, inputs.run_folder)
            indexed.append(_indexed(table, source))
        _stop_if_empty(config, indexed, listings)
        # A path that two sources share has its problems once.
        every = [problem for listing in listings for problem in listing.problems]
        problems = list({tuple(problem.values()): problem for problem in every}.values())
        index = _with_class_numbers(pa.concat_tables(indexed))
        index = index.append_column("image_id", pa.array(np.arange(index.num_rows)))
        out.write_table("index", index, tables.INDEX_SCHEMA)
        table = pa.Table.from_pylist(problems, tables.PROBLEMS_SCHEMA)
        out.write_table("problems", table, tables.PROBLEMS_SCHEMA)
        for tar in sorted({tar for listing in listings for tar in listing.unpacked}):
            out.add(tar)
        return {
            "images": index.num_rows,
            "images_by_source": [table.num_rows for table in indexed],
            "problems": dict(sorted(Counter(problem["reason"] for problem in problems).items())),
        }


def _relative(table: pa.Table, unpacked: Sequence[Path], run_folder: Path) -> pa.Table:
    """Name what the run unpacked by its path inside the run: the run may be moved.

    A source in a folder of the same name is distinguished from it by ``./``.
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


def _choose(
    table: pa.Table, source: SourceConfig, seen: set[tuple[str, int]], seed: int
) -> NDArray[np.int64]:
    """Return the rows of a source: its key pattern, minus those in ``seen``, up to its limit.

    An image is identified by its file (without links) and offset, whatever path leads to it.
    """
    real = cache(os.path.realpath)
    keys, shards, offsets = (table.column(n).to_pylist() for n in ("key", "shard", "offset"))
    locations = [(real(shard), offset) for shard, offset in zip(shards, offsets, strict=True)]
    taken = set(seen)
    rows = []
    for row, (key, location) in enumerate(zip(keys, locations, strict=True)):
        if location not in taken and (not source.keys or fnmatch.fnmatchcase(key, source.keys)):
            taken.add(location)
            rows.append(row)
    if source.limit and source.limit < len(rows):
        if source.pick == "random":
            order = KeyedPermutation(len(rows), seed, f"limit {source.role} {source.name}")
            rows = sorted(rows[at] for at in order[np.arange(source.limit)].tolist())
        else:
            rows = rows[: source.limit]
    seen.update(locations[row] for row in rows)
    return np.array(rows, np.int64)


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

    A class folder named like a class of the tars is that class; the others are numbered after the
    labels of the tars, so that no number means two things.
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


def _stop_if_empty(
    config: CurationConfig, indexed: list[pa.Table], listings: list[Listing]
) -> None:
    """Report the sources that gave no image."""
    faults = []
    for source, table, listing in zip(config.sources, indexed, listings, strict=True):
        if table.num_rows:
            continue
        pattern = f" under the key pattern {source.keys}" if source.keys else ""
        do = "check the paths, `keys`, and that no earlier source lists the same images"
        what = f"no images{pattern}{summarize_reasons(listing.problems)}"
        faults.append(Fault(what, ", ".join(source.paths), do))
    if faults:
        raise UsageError(faults=faults)
