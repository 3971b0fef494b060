"""Shards: WebDataset tars, indexed in place, read by offset, written so that bytes repeat."""

from dinoforge.shards.index import Member, Sample, ShardIndex, index_shard, verify_shard
from dinoforge.shards.index_table import read_index, write_index
from dinoforge.shards.member_names import image_extension, readable
from dinoforge.shards.problems import SHARD_REASONS, Problem, count_reasons, in_words, problem
from dinoforge.shards.reading import RangeReader, read_members, read_samples
from dinoforge.shards.sidecar import ShardFacts, read_sidecar
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
    "count_reasons",
    "image_extension",
    "in_words",
    "index_shard",
    "problem",
    "read_index",
    "read_members",
    "read_samples",
    "read_sidecar",
    "readable",
    "verify_shard",
    "write_index",
]
