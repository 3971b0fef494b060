"""Uncompressed copies of compressed tars, as images are read by offset."""

import bz2
import collections
import io
import logging
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from dinoforge.files import hash_json, read_regular, sha256_file, write_atomic, write_text
from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteStream
from dinoforge.remote.store import find_object, read_object
from dinoforge.shards.tar import BLOCK, TarWalk, is_header
from dinoforge.sources.outputs import mark_cache

__all__ = ["plain_tar", "stream_damage", "uncompressed_start"]

_log = logging.getLogger(__name__)


def _new_zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()  # of --long=31


_NEW_STREAMS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"(\xb5/\xfd": _new_zstd,
    # A frame to be skipped, with which pzstd begins.
    **{bytes([low]) + b"*M\x18": _new_zstd for low in range(0x50, 0x60)},
}


class _TrailingError(ValueError):
    """There is something else after the end of a stream."""


_DAMAGE = (zlib.error, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, _TrailingError)
_MAGIC_BYTES = max(map(len, _NEW_STREAMS))
# Damage costs the whole piece it is in; small pieces lose little.
_PIECE_BYTES = 4096
_OUTPUT_BYTES = 1 << 20  # at once, where the format allows a few bytes to stand for gigabytes
_START_PIECES = 256  # 1 MiB: the first block of bzip2 may be that long


def uncompressed_start(path: str, head: bytes) -> bytes:
    """Return the first bytes of what a file that starts with ``head`` uncompresses to.

    Of a file that is not compressed these are its own.
    """
    new_stream = _find_stream(head)
    if new_stream is None:
        return head
    start = b""
    for piece in islice(_uncompressed(path, new_stream, []), _START_PIECES):
        start += piece
        if len(start) >= BLOCK:
            break
    return start


def plain_tar(path: Path | str, unpacked: Path) -> Path | str:
    """Return the path or URL of a tar, or its uncompressed copy in ``unpacked`` (made if missing).

    A truncated or damaged stream is uncompressed as far as possible, see `stream_damage`; the index
    of the copy then reports what is missing.

    Raises
    ------
    UsageError
        If the copy cannot be written.
    """
    try:
        head = read_object(str(path), BLOCK) if is_url(str(path)) else read_regular(path, BLOCK)
        new_stream = _find_stream(head)
        if new_stream is None or is_header(head):  # the first member may be named `BZh`
            return path
        digest = _digest(path)
    except OSError:
        return path  # the index reports it as unreadable
    # Named by content: the same tar is uncompressed once, also behind a link, a replaced one again.
    # Cut: the name of the tar may be as long as the file system allows.
    name = Path(os.path.realpath(path)).name.partition(".")[0][:40]
    target = unpacked / f"{name}-{digest[:8]}.tar"
    mark_cache(unpacked)
    if not target.exists():
        damage: list[Exception] = []

        def write(file: Any) -> None:
            file.writelines(_uncompressed(path, new_stream, damage))
            for error in damage:  # the copy appears after it: a copy without a note is whole
                is_harmless = isinstance(error, _TrailingError) and _has_end(file)
                note = _remark(target) if is_harmless else _note(target)
                write_text(note, f"{error}\n")

        write_atomic(target, write)
    if remark := _read(_remark(target)):
        _log.info("%s: %s", path, remark)
    return target


def _digest(path: Path | str) -> str:
    """Return what changes with the content of a file; of an object, that is not read for it."""
    if isinstance(path, str) and is_url(path):
        entry = find_object(path)
        return hash_json([path, entry and entry.size, entry and entry.version])
    return sha256_file(Path(path))


def _find_stream(head: bytes) -> Callable[[], Any] | None:
    return next((new for magic, new in _NEW_STREAMS.items() if head.startswith(magic)), None)


def _has_end(copy: BinaryIO) -> bool:
    """Return whether the archive that was written to a file ends as it should."""
    copy.flush()
    with Path(copy.name).open("rb") as file:
        pread = partial(os.pread, file.fileno())
        walk = TarWalk(pread, os.fstat(file.fileno()).st_size)
        collections.deque(walk, maxlen=0)
    return walk.ending.reason is None


def stream_damage(copy: Path) -> str:
    """Return what was wrong with the compressed stream of a copy; empty if nothing."""
    return _read(_note(copy))


def _read(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _note(copy: Path) -> Path:
    return copy.with_suffix(".damage.txt")


def _remark(copy: Path) -> Path:
    return copy.with_suffix(".remark.txt")


def _uncompressed(
    path: Path | str, new_stream: Callable[[], Any], damage: list[Exception]
) -> Iterator[bytes]:
    """Yield the content up to its end or the first damage, which is added to ``damage``.

    Errors of the consumer, which writes, do not pass through here: they reach the caller.
    """
    try:
        yield from _contents(path, new_stream)
    except _DAMAGE as error:
        damage.append(error)


def _contents(path: Path | str, new_stream: Callable[[], Any]) -> Iterator[bytes]:
    """Yield what a file uncompresses to; streams may be concatenated (pigz) and padded."""
    stream = new_stream()
    with _open(path) as file:
        while piece := file.read(_PIECE_BYTES):
            while piece:
                if stream.eof:
                    piece = piece.lstrip(b"\0")
                    if not piece:
                        break
                    piece += file.read(_MAGIC_BYTES)  # a magic may begin at the end of a piece
                    if _find_stream(piece) is not new_stream:
                        here = file.seek(0, os.SEEK_CUR)
                        rest = len(piece) + file.seek(0, os.SEEK_END) - here
                        text = "after the end of the compressed data are not read"
                        raise _TrailingError(f"{rest:,} bytes {text}")
                    stream = new_stream()
                yield from _outputs(stream, piece)
                piece = stream.unused_data if stream.eof else b""
    if not stream.eof:
        raise EOFError("ends early")


def _open(path: Path | str) -> BinaryIO:
    if isinstance(path, str) and is_url(path):
        return io.BufferedReader(RemoteStream(path))
    return Path(path).open("rb")


def _outputs(stream: Any, piece: bytes) -> Iterator[bytes]:
    """Yield what a piece of a stream stands for."""
    if not hasattr(stream, "needs_input"):  # zlib, zstandard
        yield stream.decompress(piece)
        return
    yield stream.decompress(piece, _OUTPUT_BYTES)
    while not (stream.eof or stream.needs_input):
        yield stream.decompress(b"", _OUTPUT_BYTES)
