"""What lies beside images: URLs, captions, licenses, scores of others.

In the layout of WebDataset and img2dataset: ``KEY.json`` and ``KEY.txt`` beside ``KEY.jpg``, in a
tar or a folder, and a table ``NAME.parquet`` beside ``NAME.tar`` with a column ``key``; for images
in a table its other columns.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinoforge.files import path_of_text
from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteStream, map_ahead
from dinoforge.remote.store import find_object, read_range
from dinoforge.shards.image_tables import is_table, read_notes
from dinoforge.shards.index import Sample, index_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.tables import read_table

__all__ = ["SideReader", "plain_value", "readable"]

_CAPTION = "caption"  # column of the text beside an image
_TOO_LARGE = 1 << 24  # bytes of a JSON file
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may hold one, a table may not
_Row = dict[str, Any]


class SideReader:
    """Reads what lies beside images, by location; counts files that are no JSON objects.

    ``patterns`` name the columns that `keep` keeps, as those of a shell do.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.damaged = 0
        self._patterns = patterns
        self._reader = RangeReader(32)

    def read_each(self, places: Iterable[_Row]) -> Iterator[_Row]:
        """Yield what lies beside each image, by name; places are rows of a listing.

        Objects beside objects take a request each, so several are sent at a time.
        """

        def is_object(place: _Row) -> bool:
            return is_url(place["shard"]) and not place["member"]

        for are_objects, some in itertools.groupby(places, is_object):
            if are_objects:
                beside = map_ahead(_objects_beside, (place["shard"] for place in some))
                yield from map(self._parsed, beside)
            else:
                yield from map(self._read, some)

    def _read(self, place: _Row) -> _Row:
        path = place["shard"]
        if place["member"]:
            read = self._read_in_table if is_table(path) else self._read_in_tar
            return read(path, place["offset"])
        return self._parsed(_files_beside(Path(path_of_text(path))))

    def keep(self, row: _Row) -> _Row:
        """Return the columns that are named, with values that a table can hold."""
        named = {n: plain_value(value) for n, value in row.items() if _is_named(n, self._patterns)}
        return {name: value for name, value in named.items() if value is not None}

    def _read_in_table(self, path: str, row: int) -> _Row:
        rows = _notes(path).slice(row, 1).to_pylist()
        return dict(rows[0]) if rows else {}  # a table of images alone has no other columns

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

    def _parsed(self, beside: Sequence[bytes | None]) -> _Row:
        row: _Row = {}
        for data, read in zip(beside, (self._text, self._object), strict=True):
            row |= {} if data is None else read(data)
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


def _files_beside(path: Path) -> list[bytes | None]:
    """Read the text and the JSON file of the same stem; None if there is none."""
    files = [path.with_suffix(extension) for extension in (".txt", ".json")]
    is_read = [file.is_file() and file.stat().st_size < _TOO_LARGE for file in files]
    return [file.read_bytes() if read else None for file, read in zip(files, is_read, strict=True)]


def _objects_beside(url: str) -> list[bytes | None]:
    folder, _, name = url.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    contents: list[bytes | None] = []
    for extension in ("txt", "json"):
        one = find_object(f"{folder}/{stem if dot else name}.{extension}")
        is_read = one is not None and one.size < _TOO_LARGE
        contents.append(read_range(one.url, 0, one.size) if one and is_read else None)
    return contents


@lru_cache(maxsize=2)  # the images of a partition are in the order of their tars
def _samples_by_image(path: str) -> dict[int, Sample]:
    index = index_shard(path_of_text(path))
    return {image.offset: sample for sample in index.samples for image in sample.images}


@lru_cache(maxsize=2)
def _rows_beside(path: str) -> dict[str, _Row]:
    """Return the rows of the table beside a tar, by key; none if there is no such table."""
    if is_url(path):
        url = f"{path.removesuffix('.tar')}.parquet"
        if find_object(url) is None:
            return {}
        rows = pq.read_table(pa.PythonFile(RemoteStream(url)))
    else:
        table = Path(path_of_text(path)).with_suffix(".parquet")
        if not table.is_file():
            return {}
        rows = read_table(table)
    rows = readable(rows)
    if "key" not in rows.column_names:
        return {}
    keys = rows.column("key").cast(pa.string()).to_pylist()
    return dict(zip(keys, rows.drop_columns(["key"]).to_pylist(), strict=True))


@lru_cache(maxsize=2)
def _notes(path: str) -> pa.Table:
    """Read what a table of images notes about them; row == image."""
    return readable(read_notes(path_of_text(path)))


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def plain_value(value: Any) -> Any:
    """Return numbers, text, true and false as they are, other values as JSON."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return _LONE_SURROGATE.sub("\ufffd", text)


def readable(table: pa.Table) -> pa.Table:
    """Return a table with times and decimal numbers as text, without columns of bytes."""
    for number, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type) or pa.types.is_decimal(field.type):
            text = pc.cast(table.column(number), pa.string())
            table = table.set_column(number, field.name, text)
    return table.select([field.name for field in table.schema if "binary" not in str(field.type)])
