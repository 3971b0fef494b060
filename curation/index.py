"""The index of the ingested images: schema, and reading it by ranges of image ids.

Image ids are positions: first the sources in the order of the recipe, then the planted copies.
Bytes stay where they are; ``shard`` is the path of the file or tar: see
`dinoforge.curated.resolve_shard`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinoforge.curated import ROLES, resolve_shard
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.shards import RangeReader
from dinoforge.tables import read_tables

__all__ = [
    "INDEX_SCHEMA",
    "OpenShards",
    "index_files",
    "iter_bytes",
    "num_images",
    "partitions_of",
    "read_index",
    "read_range",
    "read_roles",
]

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("role", pa.string()),
        ("source", pa.string()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),  # -1: none
        ("class_name", pa.string()),
        ("planted_from", pa.int64()),  # null: not planted
        ("edit", pa.string()),
    ]
)


def index_files(inputs: CurationInputs) -> list[Path]:
    """Tables that make up the index, in the order of image ids."""
    return [*inputs.files("ingest", "index.parquet"), *inputs.files("plant", "index.parquet")]


def num_images(inputs: CurationInputs) -> int:
    """Count the images of the index, planted ones included."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in index_files(inputs))


def read_index(inputs: CurationInputs, columns: Sequence[str]) -> pa.Table:
    """Read columns of the whole index."""
    return read_tables(index_files(inputs), columns)


def read_range(inputs: CurationInputs, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Read the rows of image ids ``[start, stop)``; only the row groups that hold them."""
    parts: list[pa.Table] = []
    base = 0
    for path in index_files(inputs):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(start - base, 0), min(stop - base, rows)
            if low < high:
                parts.append(file.read_row_group(group, list(columns)).slice(low, high - low))
            base += rows
    return pa.concat_tables(parts)


def read_roles(inputs: CurationInputs) -> NDArray[np.int8]:
    """Role of every image as an index into ROLES."""
    role = read_index(inputs, ["role"]).column("role")
    return pc.index_in(role, pa.array(ROLES)).to_numpy().astype(np.int8)


def partitions_of(total: int, size: int) -> list[tuple[int, int]]:
    """Cut ``range(total)`` into ranges of ``size``."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


class OpenShards:
    """Read images by place; keeps a few shards open."""

    def __init__(self, run_folder: Path, *, max_open: int = 32) -> None:
        self._run_folder, self._reader = run_folder, RangeReader(max_open)

    def read(self, shard: str, offset: int, size: int) -> bytes | None:
        """Read an image; None when its bytes cannot be read.

        Raises
        ------
        UsageError
            If the shard is gone.
        """
        try:
            return self._reader.read(resolve_shard(self._run_folder, shard), offset, size)
        except FileNotFoundError as error:
            raise UsageError(
                what="image file is gone",
                where=shard,
                do="sources must stay while the run reads them: put it back, or start with --fresh",
            ) from error
        except OSError:
            return None


def iter_bytes(run_folder: Path, rows: pa.Table) -> Iterator[bytes | None]:
    """Yield the bytes of each row's image (columns shard, offset, size), in order.

    None stands for bytes that cannot be read.

    Raises
    ------
    UsageError
        If a shard is gone.
    """
    columns = (rows.column(name).to_pylist() for name in ("shard", "offset", "size"))
    shards = OpenShards(run_folder)
    for shard, offset, size in zip(*columns, strict=True):
        yield shards.read(shard, offset, size)
