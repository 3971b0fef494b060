"""Shards: WebDataset tars, indexed in place, read by offset, written reproducibly."""

from dinoforge.shards.index import index_shard

__all__ = ["index_shard"]
