"""Shards: WebDataset tars, indexed in place, read by offset, written reproducibly."""
