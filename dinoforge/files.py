"""Write files so that a reader sees all of one or none of it, whatever kills the writer.

Order: temporary file in the same folder, fsync, rename, fsync of the folder.
"""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from dinoforge.errors import cannot_write

__all__ = [
    "fsync_folder",
    "hash_json",
    "sha256_file",
    "temporary_name",
    "write_array",
    "write_atomic",
    "write_bytes",
    "write_json",
    "write_text",
]


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(path: Path) -> Path:
    """Name for a file that is not whole yet, beside the one that it becomes.

    The host is part of it: on a shared folder process ids repeat.
    """
    return path.with_name(f".{path.name}.tmp-{platform.node()}-{os.getpid()}")


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call ``write`` with an open temporary file, then put it in place under ``path``.

    Raises
    ------
    UsageError
        If the folder is read-only or the disk is full; an older file under ``path`` stays.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` atomically."""

    def put(file: BinaryIO) -> None:
        file.write(data)

    write_atomic(path, put)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically, UTF-8."""
    write_bytes(path, text.encode())


def write_array(path: Path, array: Any) -> None:
    """Write a NumPy array atomically as ``.npy``.

    Through ``write`` alone: given a real file NumPy tells a full disk as "1000 requested and 10
    written".
    """
    import numpy as np

    write_atomic(path, lambda file: np.save(_WriteOnly(file.write), array, allow_pickle=False))


class _WriteOnly:
    def __init__(self, write: Callable[[bytes], int]) -> None:
        self.write = write


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with sorted keys (equal values, equal bytes)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def hash_json(value: Any) -> str:
    """Hash a JSON value by its canonical form (sorted keys): 64 hexadecimal digits of SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
