"""Content hashes: the identity of files and of settings."""

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["hash_json", "sha256_file"]


def hash_json(value: Any) -> str:
    """Hash a JSON value by its canonical form (sorted keys): 64 hexadecimal digits of SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
