"""Data sets in which images are looked up: retrieval, recognition of objects, copy detection."""
