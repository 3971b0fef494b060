"""Side data as it is stored: tables of the columns that each range of images has, read as one."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.tables import iter_row_groups, open_table, rechunk

__all__ = ["common_type", "iter_side", "side_schema", "unite"]


def side_schema(inputs: CurationInputs) -> dict[str, pa.DataType]:
    """Return the type of every column, over all images of this run; empty without any.

    Raises
    ------
    UsageError
        If a column holds numbers for some images and text for others.
    """
    types = _types(_open_schema(path) for path in _side_files(inputs))
    types.pop("image_id", None)
    return types


def _side_files(inputs: CurationInputs) -> list[Path]:
    """Return the tables, in order: with the columns of `side.tables`, if there are any."""
    joined = inputs.files("side-tables", "side.parquet")
    return joined or inputs.files("side", "side.parquet")


def _open_schema(path: Path) -> pa.Schema:
    with open_table(path) as table:
        return table.schema_arrow


def _types(schemas: Iterable[pa.Schema]) -> dict[str, pa.DataType]:
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for name, kind in zip(schema.names, schema.types, strict=True):
            types[name] = common_type(name, types.get(name, kind), kind)
    return types


def common_type(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type of a column that has two: numbers of both kinds are floats.

    Raises
    ------
    UsageError
        If one is numbers and the other is text, or true and false.
    """
    if one == other:
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise UsageError(
        what=f"the column `{name}` of the side data is {one} for some images, {other} for others",
        where="`side.columns`",
        do="leave it out of side.columns, or write one kind of values",
    )


def unite(tables: Sequence[pa.Table]) -> pa.Table:
    """Join the rows of tables that differ in their columns: null where a table has none."""
    types = _types(table.schema for table in tables)
    schema = pa.schema(list(types.items()))
    return pa.concat_tables([_with_columns(table, schema) for table in tables])


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name).cast(field.type, safe=False)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def iter_side(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of blocks of images of this run, by id; null where an image has no value."""
    types = side_schema(inputs)
    schema = pa.schema([(name, types[name]) for name in names])

    def parts() -> Iterator[pa.Table]:
        for path in _side_files(inputs):
            here = set(_open_schema(path).names)
            read = [name for name in names if name in here] or ["image_id"]
            for group in iter_row_groups(path, read):
                yield _with_columns(group, schema)

    return rechunk(parts())
