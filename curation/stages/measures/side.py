"""Side data of every image: what lies beside it, such as its URL, its caption and scores of others.

In the layout of WebDataset and img2dataset: ``KEY.json`` and ``KEY.txt`` beside ``KEY.jpg``, in a
tar or a folder, and a table ``NAME.parquet`` beside ``NAME.tar`` with a column ``key``. One table
per range of images, row == position, with the columns that these images have.
"""

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curated import resolve_shard
from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.files import path_of_text
from dinoforge.shards.index import Sample, index_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["SideStage"]

_CAPTION = "caption"  # column of the text beside an image
_TOO_LARGE = 1 << 24  # bytes of a JSON file
_Row = dict[str, Any]


class SideStage(CurationStage):
    """Read the columns that the recipe names (`side.columns`), partition by partition."""

    name = "side"
    number = 22
    keys = ("side",)
    execution_keys = ("partition_images", "base")
    needs = ("ingest", "plant")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids; none if no column is named."""
        ranges = tables.split_ids(inputs) if inputs.config.side.columns else []
        return [{"start": start, "stop": stop} for start, stop in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Read the side data of one range."""
        index = tables.read_side_locations(inputs, payload["start"], payload["stop"])
        reader = _Reader(inputs.run_folder, inputs.config.side.columns)
        rows = [reader.read(place) for place in index.to_pylist()]
        names = sorted({name for row in rows for name in row})
        columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
        # A table without columns has no rows.
        columns = {"image_id": pa.array(range(payload["start"], payload["stop"])), **columns}
        table = pa.table(columns)
        out.write_table("side", table, table.schema)
        return {"images": len(rows), "with_data": sum(map(bool, rows)), "damaged": reader.damaged}


def _column(name: str, values: list[Any]) -> pa.Array:
    """Make a column of numbers, of text or of true and false; numbers of both kinds are floats."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values, kinds = [None if value is None else float(value) for value in values], {float}
    if len(kinds) > 1:
        kinds_found = " and ".join(sorted(_NAMES[kind] for kind in kinds))
        raise UsageError(
            what=f"the column `{name}` of the side data holds {kinds_found}",
            where="`side.columns`",
            do="leave it out of side.columns, or write one kind of values",
        )
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, OverflowError):  # integers beyond 64 bits
        return pa.array([None if value is None else float(value) for value in values])


_NAMES = {bool: "true and false", int: "numbers", float: "numbers", str: "text"}


class _Reader:
    """Reads what lies beside images, by location; counts files that are no JSON objects."""

    def __init__(self, run_folder: Path, patterns: Sequence[str]) -> None:
        self.damaged = 0
        self._run_folder, self._patterns = run_folder, patterns
        self._reader = RangeReader(32)

    def read(self, place: _Row) -> _Row:
        """Return the columns of one image: name -> number, text, true or false."""
        path = resolve_shard(self._run_folder, place["shard"])
        if place["member"]:
            row = self._read_in_tar(path, place["offset"])
        else:
            row = self._read_beside(Path(path_of_text(path)))
        named = {name: _plain(value) for name, value in row.items() if self._is_named(name)}
        return {name: value for name, value in named.items() if value is not None}

    def _is_named(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _read_in_tar(self, path: str, offset: int) -> _Row:
        sample = _samples_by_image(path).get(offset)
        if sample is None:
            return {}
        row = dict(_rows_beside(path).get(sample.key.rpartition("/")[2], {}))
        for extension, read in (("txt", self._text), ("json", self._object)):
            member = sample.members.get(extension)
            if member is not None and member.size < _TOO_LARGE:
                row |= read(self._reader.read(path, member.offset, member.size))
        return row

    def _read_beside(self, path: Path) -> _Row:
        row: _Row = {}
        for extension, read in ((".txt", self._text), (".json", self._object)):
            file = path.with_suffix(extension)
            if file.is_file() and file.stat().st_size < _TOO_LARGE:
                row |= read(file.read_bytes())
        return row

    def _text(self, data: bytes) -> _Row:
        return {_CAPTION: data.decode("utf-8", "replace").strip()}

    def _object(self, data: bytes) -> _Row:
        try:
            read = json.loads(data)
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, dict):
            self.damaged += 1
            return {}
        return read


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _plain(value: Any) -> Any:
    """Return numbers, text, true and false as they are, other values as JSON."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return _LONE_SURROGATE.sub("\ufffd", text)


@lru_cache(maxsize=2)  # the images of a partition are in the order of their tars
def _samples_by_image(path: str) -> dict[int, Sample]:
    index = index_shard(path_of_text(path))
    return {image.offset: sample for sample in index.samples for image in sample.images}


@lru_cache(maxsize=2)
def _rows_beside(path: str) -> dict[str, _Row]:
    """Return the rows of the table beside a tar, by key; none if there is no such table."""
    table = Path(path_of_text(path)).with_suffix(".parquet")
    if not table.is_file():
        return {}
    rows = read_table(table)
    if "key" not in rows.column_names:
        return {}
    keys = rows.column("key").cast(pa.string()).to_pylist()
    return dict(zip(keys, _objects(rows.drop_columns(["key"])), strict=True))


def _objects(rows: pa.Table) -> Iterator[_Row]:
    """Yield rows; of times and decimal numbers the text."""
    for number, field in enumerate(rows.schema):
        if pa.types.is_temporal(field.type) or pa.types.is_decimal(field.type):
            rows = rows.set_column(number, field.name, pc.cast(rows.column(number), pa.string()))
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            nothing = pa.nulls(rows.num_rows)
            rows = rows.set_column(number, field.name, nothing)
    yield from rows.to_pylist()
