"""Compressed tars: uncompressed once, because offsets do not reach into a stream."""

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
# A damaged stream loses the piece in which the damage is: small, so that little is lost.
_PIECE_BYTES = 4096


def plain_tar(path: Path, unpacked: Path) -> Path:
    """Return the tar itself, or its uncompressed copy in ``unpacked`` (made when missing).

    A stream that ends early or is damaged gives what could be read: the index of the copy then
    says what is missing.

    Raises
    ------
    UsageError
        If the copy cannot be written.
    """
    decompressor = _decompressor(path)
    if decompressor is None:
        return path
    # Named by content: the same tar is unpacked once, a replaced one again.
    target = unpacked / f"{path.name.partition('.')[0]}-{sha256_file(path)[:8]}.tar"
    if not target.exists():
        write_atomic(target, lambda file: file.writelines(_uncompressed(path, decompressor)))
    return target


def _decompressor(path: Path) -> Callable[[], Any] | None:
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return None  # the index says that it is unreadable
    return next((new for magic, new in _DECOMPRESSORS.items() if head.startswith(magic)), None)


def _uncompressed(path: Path, new_stream: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the content up to the end or the first damage; members follow one another (pigz).

    What goes wrong in writing it is the writer's: nothing of that is caught here.
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
