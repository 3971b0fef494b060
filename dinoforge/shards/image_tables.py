"""Images in Parquet and Arrow files: one row per image, its bytes in a column.

The column is a binary one, or the struct of bytes and path that Hugging Face's ``datasets`` writes
(``Image``); its ``.arrow`` files on disk are read, too. An image is located by its row: Parquet has
no offsets, so a read costs its whole row group, of which the last few are kept.
"""

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinoforge.images.formats import SNIFF_BYTES, image_suffix, sniff
from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteStream
from dinoforge.shards.index import Problem, UniqueKeys, problem

__all__ = [
    "TABLE_SUFFIXES",
    "RowReader",
    "TableImage",
    "has_images",
    "index_table",
    "is_table",
    "read_notes",
]

TABLE_SUFFIXES = (".parquet", ".arrow")
# Columns that name an image or its class, the first that a table has.
_KEYS = ("key", "__key__", "uid", "id", "image_id", "file_name", "filename")
_LABELS = ("label", "cls", "class", "labels")

_FAULTS = (OSError, pa.ArrowException, UnicodeDecodeError)


class TableImage(NamedTuple):
    """One image: a key that no other image of the file has, and where it is."""

    key: str
    row: int
    size: int  # bytes
    suffix: str  # of a file with these bytes
    label: str | None  # as the text of a ``.cls``


def is_table(path: str) -> bool:
    """Return whether a file is a table by its name."""
    return path.lower().endswith(TABLE_SUFFIXES)


def has_images(path: str) -> bool:
    """Return whether a table has a column of images; a damaged table may have one."""
    try:
        with _Table(path) as table:
            return bool(table.image)
    except _FAULTS:
        return True


def index_table(path: str) -> tuple[list[TableImage], list[Problem]]:
    """List the images of a table; rows without one are problems. Reads the column of images.

    Keys are those of a column ``key``, ``__key__``, ``uid``, ``id``, ``image_id`` or ``file_name``,
    else the names of the images without their suffix, else the name of the file and the row; what
    repeats is numbered. Labels are those of ``label`` or ``cls``, as names if the table names them.
    """
    images: list[TableImage] = []
    problems: list[Problem] = []
    keys, stem = UniqueKeys(), Path(path).stem
    try:
        with _Table(path) as table:
            if not table.image:
                return [], [problem(path, "", "no_image", "no column of images")]
            for row, (size, head, key, label, status) in enumerate(table.rows()):
                if size:
                    named = keys.take(key or f"{stem}-{row:08d}", "")
                    suffix = image_suffix("", sniff(head) or "bin")
                    images.append(TableImage(named, row, size, suffix, label))
                else:
                    problems.append(problem(path, f"row {row}", "no_image", status or ""))
    except _FAULTS as error:
        return [], [problem(path, "", "unreadable", _first_line(error))]
    return images, problems


class RowReader:
    """Read images of tables by row, from any thread; keeps some row groups in memory."""

    def __init__(self, max_groups: int = 4) -> None:
        self._max_groups = max_groups
        self._tables: dict[str, _Table] = {}
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, row: int) -> bytes:
        """Return the bytes of an image.

        Raises
        ------
        OSError
            If the table cannot be read, or has no such image.
        """
        with self._lock:
            try:
                content = self._read(path, row)
            except pa.ArrowException as error:
                raise OSError(f"{path}: {_first_line(error)}") from error
        if content is None:
            raise OSError(f"{path} has no image in row {row}")
        return content

    def _read(self, path: str, row: int) -> bytes | None:
        table = self._tables.get(path)
        if table is None:
            if len(self._tables) >= self._max_groups:
                self._tables.pop(next(iter(self._tables))).close()  # the oldest
            table = self._tables[path] = _Table(path)
        group = table.group_of(row)
        column = self._groups.pop((path, group), None)
        if column is None:
            column = table.images(group)
        self._groups[path, group] = column
        if len(self._groups) > self._max_groups:
            self._groups.popitem(last=False)
        content: bytes | None = column[row - table.starts[group]].as_py()
        return content


class _Table:
    """An open table by groups of rows: row groups of Parquet, record batches of Arrow."""

    def __init__(self, path: str) -> None:
        self._groups: pq.ParquetFile | list[pa.RecordBatch]
        if path.lower().endswith(".parquet"):
            self._file = pa.PythonFile(RemoteStream(path)) if is_url(path) else pa.OSFile(path)
            self._groups = pq.ParquetFile(self._file)
            metadata, schema = self._groups.metadata, self._groups.schema_arrow
            sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        else:
            self._file = pa.PythonFile(RemoteStream(path)) if is_url(path) else pa.memory_map(path)
            schema, self._groups = _read_arrow(self._file)
            sizes = [batch.num_rows for batch in self._groups]
        self.starts = list(accumulate(sizes, initial=0))  # of the groups, and the number of rows
        self._schema = schema
        self._features = _features(schema)
        self.image = self._find_image()

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def group_of(self, row: int) -> int:
        """Return the group that holds a row."""
        if not 0 <= row < self.starts[-1]:
            raise OSError(f"the table has {self.starts[-1]} rows, no row {row}")
        return bisect_right(self.starts, row) - 1

    def images(self, group: int) -> pa.ChunkedArray:
        """Read the bytes of the images of a group."""
        return _bytes_of(self._read(group, [self.image]).column(0))

    def rows(self) -> Iterator[tuple[int, bytes, str | None, str | None, str | None]]:
        """Yield number of bytes, the first of these, key, label and status of every row.

        Without an image: 0 bytes, and the status that img2dataset gave it.
        """
        key, label, status = (self._first_named(n) for n in (_KEYS, _LABELS, ("status",)))
        names = self._features.get(label or "", {}).get("names")
        for group in range(len(self.starts) - 1):
            table = self._read(group, [name for name in (self.image, key, label, status) if name])
            image = table.column(self.image)
            contents = _bytes_of(image)
            sizes = pc.binary_length(contents).fill_null(0).to_pylist()
            heads = pc.binary_slice(contents, 0, SNIFF_BYTES).to_pylist()
            keys = _texts(table.column(key)) if key else _names_of(image)
            labels = _texts(table.column(label)) if label else [None] * len(sizes)
            statuses = _texts(table.column(status)) if status else [None] * len(sizes)
            if names:
                labels = [_name_of(number, names) for number in labels]
            yield from zip(sizes, heads, keys, labels, statuses, strict=True)

    def notes(self) -> pa.Table:
        """Read the columns without bytes."""
        fields = [field for field in self._schema if "binary" not in str(field.type)]
        names = [field.name for field in fields]
        groups = [self._read(group, names) for group in range(len(self.starts) - 1)]
        # A copy: the file may be a memory map.
        return pa.concat_tables([pa.schema(fields).empty_table(), *groups]).combine_chunks()

    def _first_named(self, names: Sequence[str]) -> str | None:
        """Return the first of some columns that the table has, of texts or whole numbers."""
        for name in names:
            if name in self._schema.names:
                kind = self._schema.field(name).type
                if pa.types.is_integer(kind) or _is_text(kind):
                    return name
        return None

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        if isinstance(self._groups, pq.ParquetFile):
            return self._groups.read_row_group(group, columns=list(columns))
        return pa.Table.from_batches([self._groups[group]]).select(columns)

    def _find_image(self) -> str:
        """Return the column declared as an image, or the first that holds one; else ""."""
        declared = [name for name, kind in self._features.items() if kind.get("_type") == "Image"]
        names = [field.name for field in self._schema if _holds_bytes(field.type)]
        for name in sorted(names, key=lambda name: name not in declared):
            first = self._first_content(name)
            if first and sniff(first[:SNIFF_BYTES]) is not None:
                return name
        return next((name for name in declared if name in names), "")

    def _first_content(self, column: str) -> bytes | None:
        for group in range(len(self.starts) - 1):
            contents = _bytes_of(self._read(group, [column]).column(0)).drop_null()
            if len(contents):
                content: bytes = contents[0].as_py()
                return content
        return None


def read_notes(path: str) -> pa.Table:
    """Read the columns of a table that hold no bytes: what it notes about its images.

    Raises
    ------
    OSError
        If the table cannot be read.
    """
    try:
        with _Table(path) as table:
            return table.notes()
    except pa.ArrowException as error:
        raise OSError(f"{path}: {_first_line(error)}") from error


def _read_arrow(file: pa.MemoryMappedFile) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Map the batches of an Arrow file, or of a stream as ``datasets`` writes."""
    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        return reader.schema, [reader.get_batch(at) for at in range(reader.num_record_batches)]
    file.seek(0)
    stream = pa.ipc.open_stream(file)
    return stream.schema, list(stream)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's ``datasets`` has noted about the columns; {} for other tables."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return {}
    try:
        features = json.loads(noted)["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return {name: kind for name, kind in features.items() if isinstance(kind, dict)}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column may hold images: bytes, or a struct with ``bytes``."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        kind = kind.field(at).type if at >= 0 else pa.null()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _names_of(image: pa.ChunkedArray) -> list[str | None]:
    """Return the names of images in a struct with ``path``, without suffix."""
    if not pa.types.is_struct(image.type) or image.type.get_field_index("path") < 0:
        return [None] * len(image)
    paths = pc.struct_field(image, "path").to_pylist()
    return [str(PurePosixPath(path).with_suffix("")) if path else None for path in paths]


def _name_of(number: str | None, names: Sequence[str]) -> str | None:
    """Return the name of a class; ``datasets`` writes -1 for no class."""
    at = int(number) if number is not None else -1
    return names[at] if 0 <= at < len(names) else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
