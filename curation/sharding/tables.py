"""Tables of a sharding, and how its stages read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.stages import Inputs, Stage
from dinoforge.tables import iter_blocks

__all__ = [
    "FILES_SCHEMA",
    "PLACES_SCHEMA",
    "PROBLEMS_SCHEMA",
    "ROWS_SCHEMA",
    "SAMPLES_SCHEMA",
    "ShardingInputs",
    "ShardingStage",
    "iter_samples",
    "samples_files",
]

ShardingInputs = Inputs[ShardingConfig]
ShardingStage = Stage[ShardingConfig]

_BLOCK_ROWS = 32_768  # samples in memory; lists of members take a kilobyte per sample

_TEXTS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.int64())

# discover: one row per tar, or per sample of files that share a folder and a stem. path: of the tar
# or the folder; names, sizes: of the files, empty for a tar; root: the folder that was named
FILES_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("root", pa.string()),
        ("names", _TEXTS),
        ("sizes", _NUMBERS),
        ("size", pa.int64()),
        ("list_folders", _TEXTS),  # where a list of classes may be
    ]
)

# discover, index: what gave no sample, or something unusual about one
PROBLEMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("shard", "member", "reason", "detail")]
)

# index: one row per sample, in the order of the sources. files: the tar, or one file per member;
# image: which member is the image, -1: none; class_name, class_number: of a class folder, for which
# a `.cls` is added ("" and -1: none); bytes: in a shard; digest: of the key; id: digest of the
# `ids.field` of the sample, null: it has none
SAMPLES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("files", _TEXTS),
        ("extensions", _TEXTS),
        ("offsets", _NUMBERS),
        ("sizes", _NUMBERS),
        ("image", pa.int32()),
        ("class_name", pa.string()),
        ("class_number", pa.int64()),
        ("bytes", pa.int64()),
        ("digest", pa.binary(16)),
        ("id", pa.binary(16)),
    ]
)

# order: the samples of the shards in their order; row: of `index`
PLACES_SCHEMA = pa.schema(
    [field for field in SAMPLES_SCHEMA if field.name not in {"bytes", "digest", "id"}]
    + [pa.field("row", pa.int64()), pa.field("source_key", pa.string())]
)

# write: one row per sample of a shard, in order: what the Parquet table beside it holds. offset,
# size, sha256: of the image; width, height: as stored, before a rotation by EXIF, null if unknown;
# sizes: of all members; source_key: the key in the source
ROWS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("extensions", _TEXTS),
        ("sizes", _NUMBERS),
        ("image", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.string()),
        ("status", pa.string()),
        ("source", pa.string()),
        ("source_key", pa.string()),
    ]
)


def samples_files(inputs: ShardingInputs) -> list[Path]:
    """Return the tables of all samples, in order."""
    return inputs.files("index", "samples.parquet")


def iter_samples(
    inputs: ShardingInputs, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the samples block by block."""
    return iter_blocks(samples_files(inputs), columns, _BLOCK_ROWS)
