"""Uncompress tars once: a compressed stream cannot be read by offset."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinoforge.files import sha256_file, write_atomic

__all__ = ["plain_tar"]

_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
}
# Damage costs the whole piece it is in; small pieces lose little.
_PIECE_BYTES = 4096


def plain_tar(path: Path, unpacked: Path) -> Path:
    """Return the tar itself, or its uncompressed copy in ``unpacked`` (made if missing).

    A truncated or damaged stream is uncompressed as far as possible; the index of the copy then
    reports what is missing.

    Raises
    ------
    UsageError
        If the copy cannot be written.
    """
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return path  # the index reports it as unreadable
    new_stream = next(
        (new for magic, new in _DECOMPRESSORS.items() if head.startswith(magic)), None
    )
    if new_stream is None:
        return path
    # Named by content: the same tar is uncompressed once, a replaced one again.
    target = unpacked / f"{path.name.partition('.')[0]}-{sha256_file(path)[:8]}.tar"
    if not target.exists():
        write_atomic(target, lambda file: file.writelines(_uncompressed(path, new_stream)))
    return target


def _uncompressed(path: Path, new_stream: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the content up to its end or the first damage; streams may be concatenated (pigz).

    Catches read errors only: errors of the consumer, which writes, must reach the caller.
    """
    stream = new_stream()
    with path.open("rb") as file:
        while True:
            try:
                piece = file.read(_PIECE_BYTES)
            except OSError:
                return
            if not piece:
                return
            while piece:
                if stream.eof:
                    stream = new_stream()
                try:
                    content = stream.decompress(piece)
                except (zlib.error, OSError, lzma.LZMAError):
                    return
                yield content
                piece = stream.unused_data if stream.eof else b""
