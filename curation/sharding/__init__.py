"""Shards from any images and shards, without a curation: build, reshard, shuffle, subset, merge."""
