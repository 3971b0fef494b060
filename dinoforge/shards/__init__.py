"""Shards: WebDataset tars, indexed in place, read by offset, written reproducibly."""

from dinoforge.shards.index import (
    SHARD_REASONS,
    Member,
    Problem,
    Sample,
    ShardIndex,
    index_shard,
    problem,
    summarize_reasons,
    verify_shard,
)
from dinoforge.shards.reading import RangeReader, read_members, read_samples
from dinoforge.shards.sidecar import ShardFacts, read_sidecar
from dinoforge.shards.tar import readable
from dinoforge.shards.writer import ShardWriter, WrittenShard

__all__ = [
    "SHARD_REASONS",
    "Member",
    "Problem",
    "RangeReader",
    "Sample",
    "ShardFacts",
    "ShardIndex",
    "ShardWriter",
    "WrittenShard",
    "index_shard",
    "problem",
    "read_members",
    "read_samples",
    "read_sidecar",
    "readable",
    "summarize_reasons",
    "verify_shard",
]
