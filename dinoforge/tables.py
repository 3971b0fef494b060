"""Parquet tables with a declared schema; equal content gives equal bytes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dinoforge.errors import damaged
from dinoforge.files import write_atomic

__all__ = [
    "ROW_GROUP_ROWS",
    "iter_row_groups",
    "open_table",
    "read_table",
    "read_tables",
    "write_table",
]

ROW_GROUP_ROWS = 65_536


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
    if set(table.column_names) != set(schema.names):
        missing = sorted(set(schema.names) - set(table.column_names))
        extra = sorted(set(table.column_names) - set(schema.names))
        raise ValueError(f"table for {Path(path).name}: missing columns {missing}, extra {extra}")
    exact = table.select(schema.names).cast(schema).combine_chunks()
    if metadata:
        exact = exact.replace_schema_metadata(dict(metadata))
    options = {"compression": "zstd", "row_group_size": ROW_GROUP_ROWS}
    write_atomic(Path(path), lambda file: pq.write_table(exact, file, **options))


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


def iter_row_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a table by row groups of at most 65,536 rows; see `read_table`."""
    names = list(columns) if columns is not None else None
    with open_table(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=names)
