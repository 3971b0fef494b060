"""Reading the facts of the filter: columns of every image, in the order of image ids."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.tables import CurationInputs
from dinoforge.tables import read_table, read_tables

__all__ = ["decodable_range", "hash_column", "read_facts"]


def read_facts(inputs: CurationInputs, columns: Sequence[str]) -> pa.Table:
    """Read columns of the facts of every image."""
    return read_tables(inputs.files("filter", "facts.parquet"), columns)


def decodable_range(inputs: CurationInputs, partition: int) -> NDArray[np.bool_]:
    """Tell which images of one filter partition decode."""
    table = read_table(inputs.file("filter", "facts.parquet", partition), ["width"])
    return table.column("width").to_numpy() > 0


def hash_column(facts: pa.Table, name: str) -> NDArray[np.void]:
    """Take a column of 32-byte hashes as comparable fixed-size values; nulls become zeros."""
    column = facts.column(name).combine_chunks()
    if column.null_count:
        column = column.fill_null(pa.scalar(bytes(32), pa.binary(32)))
    raw = np.frombuffer(column.buffers()[1], np.uint8)
    start = column.offset * 32
    return raw[start : start + len(column) * 32].view("V32")
