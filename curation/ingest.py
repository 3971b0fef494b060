"""Sources to one index: every image a row, in the order of the recipe; no byte is moved."""

import fnmatch
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.config import CurationConfig, SourceConfig
from curation.index import INDEX_SCHEMA
from dinoforge.errors import Fault, UsageError
from dinoforge.randomness import KeyedPermutation
from dinoforge.shards import Problem
from dinoforge.sources import find_places
from dinoforge.sources.listing import list_places
from dinoforge.stages import Inputs, Output

__all__ = ["PROBLEMS_SCHEMA", "IngestStage"]

# What gave no image: one row a shard, member or file.
PROBLEMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("shard", "member", "reason", "detail")]
)


@dataclass(frozen=True)
class IngestStage:
    """List the images of all sources; an image listed twice belongs to the first source."""

    name: str = "ingest"
    number: int = 10
    version: str = "1.0.0"
    keys: tuple[str, ...] = ("sources", "seed")
    needs: tuple[str, ...] = ()

    def plan(self, inputs: Inputs) -> list[dict[str, Any]]:
        """Plan one partition: only names and tar headers are read.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again.
        """
        config: CurationConfig = inputs.config
        faults: list[Fault] = []
        marks = []
        for source in config.sources:
            try:
                marks.append(find_places(source.paths).fingerprint())
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        return [{"files": marks}]

    def run(self, payload: dict[str, Any], inputs: Inputs, out: Output) -> dict[str, Any]:  # noqa: ARG002
        """List every source."""
        config: CurationConfig = inputs.config
        folder = inputs.folder(self.name) / "unpacked"
        tables: list[pa.Table] = []
        problems: list[Problem] = []
        seen: set[tuple[str, int]] = set()
        for source in config.sources:
            listing = list_places(find_places(source.paths), unpacked=folder)
            table = _relative(listing.table, inputs.run_folder)
            rows = _chosen(table, source, seen, config.seed)
            tables.append(_indexed(table.take(pa.array(rows)), source))
            # A path that two sources share has its problems once.
            problems.extend(found for found in listing.problems if found not in problems)
        _stop_when_empty(config, tables)
        index = _with_class_numbers(pa.concat_tables(tables))
        image_id = pa.array(np.arange(index.num_rows))
        out.write_table("index", index.append_column("image_id", image_id), INDEX_SCHEMA)
        out.write_table(
            "problems", pa.Table.from_pylist(problems, PROBLEMS_SCHEMA), PROBLEMS_SCHEMA
        )
        for tar in sorted(folder.glob("*.tar")):
            out.add(tar)
        return {
            "images": index.num_rows,
            "images_by_source": [table.num_rows for table in tables],
            "problems": dict(sorted(Counter(found["reason"] for found in problems).items())),
        }


def _relative(table: pa.Table, run_folder: Path) -> pa.Table:
    """Name what the run unpacked by its path inside the run: the run may be moved."""
    prefix = f"{run_folder}/"
    shards = table.column("shard").combine_chunks().dictionary_encode()
    names = [name.removeprefix(prefix) for name in shards.dictionary.to_pylist()]
    renamed = pa.DictionaryArray.from_arrays(shards.indices, pa.array(names, pa.string()))
    at = table.column_names.index("shard")
    return table.set_column(at, "shard", renamed.cast(pa.string()))


def _chosen(
    table: pa.Table, source: SourceConfig, seen: set[tuple[str, int]], seed: int
) -> NDArray[np.int64]:
    """Rows of a source: its key pattern, minus what earlier sources took, up to its limit."""
    columns = (table.column(name).to_pylist() for name in ("key", "shard", "offset"))
    rows = [
        row
        for row, (key, shard, offset) in enumerate(zip(*columns, strict=True))
        if (not source.keys or fnmatch.fnmatchcase(key, source.keys))
        and (shard, offset) not in seen
    ]
    if source.limit and source.limit < len(rows):
        if source.pick == "random":
            order = KeyedPermutation(len(rows), seed, f"limit {source.role} {source.name}")
            rows = sorted(rows[at] for at in order[np.arange(source.limit)].tolist())
        else:
            rows = rows[: source.limit]
    shards, offsets = table.column("shard"), table.column("offset")
    seen.update((shards[row].as_py(), offsets[row].as_py()) for row in rows)
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
    """Give class folders of one name one number in all sources; `.cls` of tars stays as it is."""
    names, label = index.column("class_name"), index.column("label")
    in_folder = pc.and_(pc.equal(index.column("member"), ""), pc.not_equal(names, ""))
    order = pa.array(sorted(pc.unique(names.filter(in_folder)).to_pylist()), pa.string())
    number = pc.index_in(names, order).cast(pa.int32())
    at = index.column_names.index("label")
    return index.set_column(at, "label", pc.if_else(in_folder, number, label))


def _stop_when_empty(config: CurationConfig, tables: list[pa.Table]) -> None:
    """Say which sources gave nothing; a curation of nothing is a mistake."""
    faults = []
    for source, table in zip(config.sources, tables, strict=True):
        if table.num_rows:
            continue
        pattern = f" under the key pattern {source.keys}" if source.keys else ""
        do = "check the paths, `keys`, and that no earlier source lists the same images"
        faults.append(Fault(f"no images{pattern}", ", ".join(source.paths), do))
    if faults:
        raise UsageError(faults=faults)
