"""Tables joined to what lies beside the images by a column, as the metadata of DataComp.

Tables are paths, URLs or patterns of them. They are read once per partition that asks for rows: the
column of all tables, other columns only where a row group has a value that is asked for.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.side import unite
from dinoforge.errors import Fault, UsageError, damaged
from dinoforge.remote import is_url
from dinoforge.remote.listings import list_once, listings_folder
from dinoforge.remote.reading import RemoteStream
from dinoforge.remote.store import expand_pattern
from dinoforge.sources.beside import plain_value
from dinoforge.tables import open_table

__all__ = ["check_tables", "count_rows", "find_rows", "find_tables"]

_MAGIC = frozenset("*?[{")
# Rows whose column is in memory; a search in fewer rows costs mostly the index of the values.
_BLOCK_ROWS = 1 << 20


class SideTable(NamedTuple):
    """A table, and what changes when it is replaced."""

    path: str  # or URL
    size: int
    version: str


def check_tables(config: CurationConfig) -> None:
    """Refuse tables that are missing or lack the column (`side.tables`, `side.on`).

    Raises
    ------
    UsageError
        With every such table, or if no table has a column that `side.columns` names.
    """
    faults, others = [], set[str]()
    for pattern in config.side.tables:
        paths = [one.path for one in find_tables([pattern], listings_folder(Path(config.out)))]
        if not paths:
            faults.append(Fault("no table matches", f"side.tables: {pattern}", "check the path"))
        for path in paths:
            with _open(path) as table:
                names = table.schema_arrow.names
            others.update(names)
            if config.side.on not in names:
                what = f"the table has no column `{config.side.on}`"
                faults.append(Fault(what, path, "name one in side.on that it has"))
    others.discard(config.side.on)
    if config.side.tables and not faults and not any(map(config.side.is_named, others)):
        what = "the tables have no column that `side.columns` names"
        faults.append(Fault(what, "`side.tables`", "name the columns to keep, or leave them out"))
    if faults:
        raise UsageError(faults=faults)


def count_rows(config: CurationConfig) -> tuple[int, int]:
    """Count the rows of the tables on this machine, and their columns that are kept, for a plan.

    0 rows: there are none here.
    """
    num, names = 0, set[str]()
    local = [pattern for pattern in config.side.tables if not is_url(pattern)]
    for one in find_tables(local, None):
        with _open(one.path) as table:
            num += table.metadata.num_rows
            names.update(filter(config.side.is_named, table.schema_arrow.names))
    return num, len(names)


def find_tables(patterns: Sequence[str], listings: Path | None) -> list[SideTable]:
    """Find the tables behind paths, URLs and patterns; see `list_once` for ``listings``."""
    tables: list[SideTable] = []
    for pattern in patterns:
        if not is_url(pattern):
            is_file = Path(pattern).is_file()
            paths = [Path(pattern)] if is_file else sorted(map(Path, glob(pattern)))  # noqa: PTH207 - may be absolute
            status = [path.stat() for path in paths]
            tables += [
                SideTable(str(path), at.st_size, str(at.st_mtime_ns))
                for path, at in zip(paths, status, strict=True)
            ]
            continue
        start, matches = expand_pattern(pattern)
        objects = list_once(start if _MAGIC & set(pattern) else pattern, listings)
        tables += [
            SideTable(one.url, one.size, one.version)
            for one in objects
            if any(match(one.url) for match in matches)
        ]
    return tables


@contextlib.contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    if not is_url(path):
        with open_table(Path(path)) as table:
            yield table
        return
    try:
        with pa.PythonFile(RemoteStream(path)) as file:
            yield pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, error, kind="table") from error


def find_rows(
    paths: Sequence[str], on: str, wanted: pa.Array, is_named: Callable[[str], bool]
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Find the rows of tables by the values, as text, of a column; the first of each counts.

    Returns
    -------
    table : pa.Table
        The rows: ``on`` as text, and the columns that are named, with the types of side data.
    place : ndarray
        Row of each value of ``wanted`` in the table; -1: it has none.
    """
    place = np.full(len(wanted), -1, np.int64)
    parts = [pa.table({on: pa.array([], pa.string())})]
    num = 0
    for block in _blocks(paths, on) if len(wanted) else ():
        at = pc.index_in(block.column, value_set=wanted).fill_null(-1).to_numpy()
        rows = np.flatnonzero(at >= 0)
        rows = rows[place[at[rows]] < 0]
        values, first = np.unique(at[rows], return_index=True)
        order = np.argsort(first)
        place[values[order]] = num + np.arange(len(values))
        num += len(values)
        parts += block.read(rows[first[order]], on, is_named)
    return unite(parts), place


class _Block(NamedTuple):
    """The values of some row groups that follow each other, of several tables or of one."""

    groups: list[tuple[str, int]]  # table, its row group
    sizes: list[int]
    column: pa.ChunkedArray

    def read(
        self, rows: NDArray[np.int64], on: str, is_named: Callable[[str], bool]
    ) -> Iterator[pa.Table]:
        """Read columns of ascending rows of the block; row groups without any are left alone."""
        starts = [0, *accumulate(self.sizes)]
        cuts = np.searchsorted(rows, starts)
        needed = [number for number in range(len(self.groups)) if cuts[number] < cuts[number + 1]]
        for path, numbers in groupby(needed, lambda number: self.groups[number][0]):
            with _open(path) as table:
                names = [name for name in table.schema_arrow.names if is_named(name) and name != on]
                for number in numbers:
                    inside = pa.array(rows[cuts[number] : cuts[number + 1]] - starts[number])
                    read = table.read_row_group(self.groups[number][1], columns=[on, *names])
                    rows_here = read.take(inside)
                    values = rows_here.column(on).cast(pa.string())
                    yield pa.table({on: values} | _plain_columns(rows_here.select(names)))


def _blocks(paths: Sequence[str], on: str) -> Iterator[_Block]:
    block, num = _Block([], [], pa.chunked_array([], pa.string())), 0
    for path in paths:
        with _open(path) as table:
            for group in range(table.num_row_groups):
                column = table.read_row_group(group, columns=[on]).column(0).cast(pa.string())
                block = _Block(
                    [*block.groups, (path, group)],
                    [*block.sizes, len(column)],
                    pa.chunked_array([*block.column.chunks, *column.chunks], pa.string()),
                )
                num += len(column)
                if num >= _BLOCK_ROWS:
                    yield block
                    block, num = _Block([], [], pa.chunked_array([], pa.string())), 0
    yield block


def _plain_columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return columns as side data have them: int64, float64, bool and string.

    Lists and structs become JSON, times and decimal numbers text, NaN null; bytes are left out.
    """
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)  # noqa: PLW2901 - the same values
            kind = column.type
        if "binary" in str(kind) or pa.types.is_null(kind):
            continue
        if pa.types.is_boolean(kind):
            columns[name] = column
        elif pa.types.is_integer(kind):
            columns[name] = column.cast(pa.float64() if kind == pa.uint64() else pa.int64())
        elif pa.types.is_floating(kind):
            numbers = column.cast(pa.float64())
            columns[name] = pc.if_else(pc.is_nan(numbers), None, numbers)
        elif pa.types.is_nested(kind):
            texts = [plain_value(value) for value in column.to_pylist()]
            columns[name] = pa.chunked_array([pa.array(texts, pa.string())])
        else:
            columns[name] = column.cast(pa.string())
    return columns
