"""Compressed tars: uncompressed once, because offsets do not reach into a stream."""

import bz2
import gzip
import lzma
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from dinoforge.atomic_file import write_atomic
from dinoforge.hashing import sha256_file

__all__ = ["plain_tar"]

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


def plain_tar(path: Path, unpacked: Path) -> Path:
    """Return the tar itself, or its uncompressed copy in ``unpacked`` (made when missing).

    A stream that ends early or is damaged gives what could be read: the index of the copy then
    says what is missing.

    Raises
    ------
    UsageError
        If the copy cannot be written.
    """
    opener = _opener(path)
    if opener is None:
        return path
    # Named by content: the same tar is unpacked once, a replaced one again.
    target = unpacked / f"{path.name.partition('.')[0]}-{sha256_file(path)[:8]}.tar"
    if not target.exists():
        with opener(path, "rb") as stream:
            write_atomic(target, lambda file: _copy(stream, file))
    return target


def _opener(path: Path) -> Callable[..., Any] | None:
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return None  # the index says that it is unreadable
    return next((found for magic, found in _OPENERS.items() if head.startswith(magic)), None)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    try:
        shutil.copyfileobj(source, target, 1 << 20)
    except (EOFError, OSError, zlib.error, lzma.LZMAError):
        target.flush()
