"""Parquet tables with a declared schema; equal content gives equal bytes."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinoforge.errors import damaged
from dinoforge.files import temporary_name, write_atomic

__all__ = [
    "BLOCK_ROWS",
    "ROW_GROUP_ROWS",
    "SortedRows",
    "iter_blocks",
    "iter_row_groups",
    "open_table",
    "read_rows",
    "read_table",
    "read_tables",
    "rechunk",
    "shuffle_rows",
    "take_rows",
    "write_table",
    "write_tables",
]

ROW_GROUP_ROWS = 65_536
# Rows that are in memory where a table is read or written block by block; whole row groups.
BLOCK_ROWS = 4 * ROW_GROUP_ROWS


def write_table(
    path: Path, table: pa.Table, schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a table with exactly the columns of ``schema``, in any order, as a Parquet file.

    Atomic. ``metadata`` of the file (schema version, producer) must not contain times.

    Raises
    ------
    ValueError
        If columns are missing or not in the schema: a bug of the caller.
    """
    write_tables(path, [table], schema, metadata=metadata)


def write_tables(
    path: Path,
    parts: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write the rows of several tables as one; only a row group of them is in memory at once.

    The file is that which `write_table` makes of the concatenated table; see there. Returns the
    number of rows.
    """
    name, total = Path(path).name, 0
    exact = pa.schema(schema, dict(metadata)) if metadata else schema

    def write(file: BinaryIO) -> None:
        nonlocal total
        with pq.ParquetWriter(file, exact, compression="zstd") as writer:
            exactly = (_exactly(part, schema, name) for part in parts)
            for block in rechunk(exactly, min(BLOCK_ROWS, ROW_GROUP_ROWS)):
                whole = block.replace_schema_metadata(exact.metadata)
                writer.write_table(whole, row_group_size=ROW_GROUP_ROWS)
                total += block.num_rows
            if not total:
                writer.write_table(exact.empty_table())

    write_atomic(Path(path), write)
    return total


def _exactly(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    if set(table.column_names) != set(schema.names):
        missing = sorted(set(schema.names) - set(table.column_names))
        extra = sorted(set(table.column_names) - set(schema.names))
        raise ValueError(f"table for {name}: missing columns {missing}, extra {extra}")
    return table.select(schema.names).cast(schema)


def rechunk(parts: Iterable[pa.Table], rows: int = 0) -> Iterator[pa.Table]:
    """Yield the rows of tables of one schema in tables of ``rows`` rows; the last has the rest.

    0 are `BLOCK_ROWS`.
    """
    rows = rows or BLOCK_ROWS
    waiting: list[pa.Table] = []
    num = 0
    for part in parts:
        waiting.append(part)
        num += part.num_rows
        if num >= rows:
            whole = pa.concat_tables(waiting)
            for start in range(0, num - num % rows, rows):
                yield whole.slice(start, rows).combine_chunks()
            waiting, num = [whole.slice(num - num % rows)], num % rows
    if num:
        yield pa.concat_tables(waiting).combine_chunks()


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a table to read its metadata or single row groups.

    Raises
    ------
    UsageError
        If the file is missing or is not Parquet, also while it is read.
    """
    try:
        # An open file: of a path, pyarrow reads `exp:1/x` as a URI, and replaces `~`.
        with Path(path).open("rb") as file:
            yield pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, error, kind="table") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole table (or some columns of it) into memory; raises like `open_table`."""
    with open_table(path) as file:
        return file.read(columns=list(columns) if columns is not None else None)


def read_tables(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read at least one table, all of one schema, in the given order; see `read_table`."""
    return pa.concat_tables([read_table(path, columns) for path in paths]).combine_chunks()


def read_rows(
    paths: Sequence[Path], start: int, stop: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read rows ``[start, stop)`` of concatenated tables; only the row groups that hold them.

    See `read_table`.
    """
    parts: list[pa.Table] = []
    base = 0
    for path in paths:
        with open_table(path) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(start - base, 0), min(stop - base, rows)
                if low < high:
                    parts.append(file.read_row_group(group, columns).slice(low, high - low))
                base += rows
    return pa.concat_tables(parts)


def iter_row_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a table by row groups of at most 65,536 rows; see `read_table`."""
    names = list(columns) if columns is not None else None
    with open_table(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=names)


def take_rows(blocks: Iterable[pa.Table], rows: NDArray[np.int64]) -> pa.Table:
    """Return some rows, ascending, of what are blocks of one table."""
    taken, at = [], 0
    for block in blocks:
        here = slice(*np.searchsorted(rows, [at, at + block.num_rows]))
        taken.append(block.take(pa.array(rows[here] - at)))
        at += block.num_rows
    return pa.concat_tables(taken).combine_chunks()


class SortedRows:
    """Rows of a table that is sorted by a column of ids, in ranges that follow one another."""

    def __init__(self, path: Path, key: str = "image_id") -> None:
        with open_table(path) as file:
            self._rest: pa.Table = file.schema_arrow.remove_metadata().empty_table()
        self._parts, self._key = iter_row_groups(path), key

    def below(self, stop: int) -> pa.Table:
        """Return the rows with an id below ``stop`` that were not returned before."""
        taken = []
        while True:
            at = int(np.searchsorted(self._rest.column(self._key).to_numpy(), stop))
            taken.append(self._rest.slice(0, at))
            self._rest = self._rest.slice(at)
            part = next(self._parts, None) if not self._rest.num_rows else None
            if part is None:
                return pa.concat_tables(taken).combine_chunks()
            self._rest = part


def iter_blocks(
    paths: Iterable[Path], columns: Sequence[str] | None = None, rows: int = 0
) -> Iterator[pa.Table]:
    """Yield the rows of tables of one schema, in the given order, in blocks; see `rechunk`."""
    return rechunk((part for path in paths for part in iter_row_groups(path, columns)), rows)


def shuffle_rows(
    parts: Iterable[pa.Table], place: NDArray[np.int64], folder: Path, rows: int
) -> Iterator[pa.Table]:
    """Yield the rows of tables by their place, ``rows`` at a time.

    ``place`` holds the place of every row, each of ``0 .. n - 1`` once. The rows wait in temporary
    files in ``folder``, one per table that is yielded; of them one is in memory.
    """
    paths = [
        temporary_name(folder / f"places-{number}") for number in range(-(-len(place) // rows))
    ]
    at = 0
    try:
        with contextlib.ExitStack() as stack:
            writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
            for table in parts:
                here = place[at : (at := at + table.num_rows)]
                part = table.append_column("place", pa.array(here))
                bucket = here // rows
                for number in np.unique(bucket).tolist():
                    if number not in writers:
                        file = stack.enter_context(paths[number].open("wb"))
                        writer = pa.ipc.new_stream(file, part.schema)
                        writers[number] = stack.enter_context(writer)
                    writers[number].write_table(part.filter(pa.array(bucket == number)))
        for path in paths:
            with path.open("rb") as file, pa.ipc.open_stream(file) as reader:
                table = reader.read_all()
            yield table.take(np.argsort(table.column("place").to_numpy())).drop(["place"])
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
