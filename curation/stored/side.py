"""Side data as it is stored: tables of the columns that each range of images has, read as one."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.tables import iter_row_groups, open_table, rechunk

__all__ = ["iter_side", "side_schema"]


def side_schema(inputs: CurationInputs) -> dict[str, pa.DataType]:
    """Return the type of every column, over all images of this run; empty without any.

    Raises
    ------
    UsageError
        If a column holds numbers for some images and text for others.
    """
    types: dict[str, pa.DataType] = {}
    for path in inputs.files("side", "side.parquet"):
        with open_table(path) as table:
            schema = table.schema_arrow
        for name, kind in zip(schema.names[1:], schema.types[1:], strict=True):  # after image_id
            types[name] = _common(name, types.get(name, kind), kind)
    return types


def _common(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise UsageError(
        what=f"the column `{name}` of the side data is {one} for some images, {other} for others",
        where="`side.columns`",
        do="leave it out of side.columns, or write one kind of values",
    )


def iter_side(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of blocks of images of this run, by id; null where an image has no value."""
    types = side_schema(inputs)
    schema = pa.schema([(name, types[name]) for name in names])

    def parts() -> Iterator[pa.Table]:
        for path in inputs.files("side", "side.parquet"):
            with open_table(path) as table:
                here = set(table.schema_arrow.names)
            read = [name for name in names if name in here] or ["image_id"]
            for group in iter_row_groups(path, read):
                columns = [
                    group.column(field.name).cast(field.type, safe=False)
                    if field.name in group.column_names
                    else pa.nulls(group.num_rows, field.type)
                    for field in schema
                ]
                yield pa.table(columns, schema=schema)

    return rechunk(parts())
