"""Indexes of many shards in one Parquet table: a row a member, in the order of the tars."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dinoforge.errors import UsageError
from dinoforge.shards.index import Member, Sample, ShardIndex
from dinoforge.tables import read_table, write_table

__all__ = ["INDEX_SCHEMA", "read_index", "write_index"]

INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # position in the list of shards of the metadata
        ("sample", pa.int64()),  # position in the shard
        ("key", pa.string()),
        ("extension", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.string()),  # text of .cls; null: none
    ]
)
_METADATA_KEY = "dinoforge.shards"


def write_index(path: Path, indexes: Sequence[ShardIndex]) -> None:
    """Write indexes with their problems; equal indexes give equal bytes."""
    rows = [
        (shard, position, sample.key, m.extension, m.name, m.offset, m.size, sample.label)
        for shard, index in enumerate(indexes)
        for position, sample in enumerate(index.samples)
        for m in sample.members
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(INDEX_SCHEMA.names)
    table = pa.table([pa.array(c, t.type) for c, t in zip(columns, INDEX_SCHEMA, strict=True)],
                     schema=INDEX_SCHEMA)  # fmt: skip
    shards = [
        {
            "path": index.path,
            "num_bytes": index.num_bytes,
            "complete": index.complete,
            "problems": index.problems,
        }
        for index in indexes
    ]
    write_table(path, table, INDEX_SCHEMA, metadata={_METADATA_KEY: json.dumps(shards)})


def read_index(path: Path) -> list[ShardIndex]:
    """Read what `write_index` wrote.

    Raises
    ------
    UsageError
        If the file is missing or is another table.
    """
    table = read_table(path)
    metadata = pq.ParquetFile(path).schema_arrow.metadata or {}
    if _METADATA_KEY.encode() not in metadata:
        raise UsageError(
            what="no index of shards", where=str(path), do="give a file that write_index wrote"
        )
    indexes = [
        ShardIndex(one["path"], one["num_bytes"], [], one["problems"], one["complete"])
        for one in json.loads(metadata[_METADATA_KEY.encode()])
    ]
    columns = (table.column(name).to_pylist() for name in INDEX_SCHEMA.names)
    for shard, position, key, extension, name, offset, size, label in zip(*columns, strict=True):
        samples = indexes[shard].samples
        if position == len(samples):
            samples.append(Sample(key, label=label))
        samples[position].members.append(Member(extension, name, offset, size))
    return indexes
