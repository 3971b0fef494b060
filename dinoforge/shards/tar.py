"""Members of a tar by offset: their names, and whether the archive ends as it should.

Python's `tarfile` and readers built on it silently take a damaged header or a file truncated
between members for the end of the archive. Here the ending is a result. Formats: v7, ustar, GNU
(long names, base-256 numbers) and pax (long names, sizes).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BLOCK", "Ending", "Entry", "MemberName", "TarWalk", "readable", "split_member_name"]

BLOCK = 512
_ZEROS = bytes(BLOCK)
_LONG_NAME_LIMIT = 1 << 20  # bytes; a longer "name" is damage
_FILE_KINDS = (b"0", b"\0", b"7")
_KINDS_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: offset and size of its data, and its first bytes (at most 512)."""

    name: str
    kind: bytes  # type flag; b"0" for regular files of every format
    offset: int
    size: int
    head: bytes


@dataclass(frozen=True)
class Ending:
    """How the archive ends: ``reason`` is None for a proper end, else one of `SHARD_REASONS`."""

    reason: str | None
    at: int
    member: str = ""


class TarWalk:
    """Iterate over the members of an open file; ``ending`` is valid afterwards."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._descriptor = descriptor
        self._num_bytes = num_bytes
        self.ending = Ending("no_end_marker", 0)

    def __iter__(self) -> Iterator[Entry]:
        """Yield members in the order of the file."""
        at = 0
        long_name: bytes | None = None
        pax: dict[bytes, bytes] = {}
        while (block := self._header(at)) is not None:
            kind, size = block[156:157], _number(block[124:136])
            if b"size" in pax:
                size = int(pax[b"size"])
            data_at = at + BLOCK
            if kind in (b"x", b"g", b"L", b"K"):
                extension = self._extension(data_at, size)
                if extension is None:
                    return
                if kind == b"x":
                    pax = _pax_records(extension)
                elif kind == b"L":
                    long_name = extension.rstrip(b"\0")
                at = _next(data_at, size)
                continue
            name = readable(pax.get(b"path") or long_name or _short_name(block))
            kind = _kind(kind, name, pax)
            has_data = kind not in _KINDS_WITHOUT_DATA
            if has_data and data_at + size > self._num_bytes:
                self.ending = Ending("truncated", data_at, name)
                return
            yield Entry(name, kind, data_at, size, block[BLOCK : BLOCK + size])
            at = _next(data_at, size) if has_data else data_at
            long_name, pax = None, {}

    def _header(self, at: int) -> bytes | None:
        """Read a header and the block after it; None at the end, after setting ``ending``."""
        left = self._num_bytes - at
        if left <= 0:
            self.ending = Ending("no_end_marker", min(at, self._num_bytes))
            return None
        block = os.pread(self._descriptor, 2 * BLOCK, at)
        if len(block) < BLOCK:
            self.ending = Ending("truncated" if at > 0 else "not_a_tar", at)
            return None
        if block[:BLOCK] == _ZEROS:
            after = self._first_nonzero(at + BLOCK)
            reason = None if after is None else "data_after_end"
            self.ending = Ending(reason, at if after is None else after)
            return None
        if not _checksum_fits(block[:BLOCK]) or not _is_number(block[124:136]):
            is_tar = at > 0 or block[257:262] == b"ustar"
            self.ending = Ending("bad_header" if is_tar else "not_a_tar", at)
            return None
        return block

    def _extension(self, at: int, size: int) -> bytes | None:
        if size > _LONG_NAME_LIMIT:
            self.ending = Ending("bad_header", at - BLOCK)
            return None
        data = os.pread(self._descriptor, size, at)
        if len(data) < size:
            self.ending = Ending("truncated", at)
            return None
        return data

    def _first_nonzero(self, at: int) -> int | None:
        while piece := os.pread(self._descriptor, 1 << 20, at):
            rest = piece.lstrip(b"\0")
            if rest:
                return at + len(piece) - len(rest)
            at += len(piece)
        return None


def _next(data_at: int, size: int) -> int:
    return data_at + (size + BLOCK - 1) // BLOCK * BLOCK


def _short_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # The old GNU format ("ustar  ") keeps times in the prefix field.
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        return prefix + b"/" + name if prefix else name
    return name


def _kind(kind: bytes, name: str, pax: dict[bytes, bytes]) -> bytes:
    if any(key.startswith(b"GNU.sparse") for key in pax):
        return b"S"
    if kind in _FILE_KINDS:
        return b"5" if kind == b"\0" and name.endswith("/") else b"0"
    return kind


def _is_number(field: bytes) -> bool:
    return field[0] in (0x80, 0xFF) or not field.strip(b" \0").strip(b"01234567")


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # base 256, for 8 GiB and more
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _checksum_fits(block: bytes) -> bool:
    field = block[148:156].strip(b" \0")
    if not field or field.strip(b"01234567"):
        return False
    stated = int(field, 8)
    # The sum counts its own field as eight spaces.
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    if total == stated:
        return True
    # Some old writers summed signed bytes.
    high = sum(byte >= 0x80 for byte in block[:148] + block[156:])
    return total - 256 * high == stated


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read ``LENGTH KEY=VALUE`` lines; stop at the first other line."""
    records: dict[bytes, bytes] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not len(digits) < int(digits) <= len(data):
            break
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[key] = value
        data = data[int(digits) :]
    if not records.get(b"size", b"0").isdigit():
        del records[b"size"]
    return records


@dataclass(frozen=True)
class MemberName:
    """Key ``folder/stem``, and everything after the first dot of the base name in lower case."""

    key: str
    extension: str
    is_safe: bool  # False: absolute, or contains `..`


def split_member_name(name: str) -> MemberName | None:
    """Split at the first dot of the base name; None without a key or an extension.

    Empty, ``.`` and ``..`` parts of the folder are dropped, so that a file named by the key never
    leaves the folder it is written to.
    """
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return None
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    is_safe = not name.startswith("/") and ".." not in folder.split("/")
    return MemberName("/".join([*parts, stem]), extension.lower(), is_safe)


def readable(name: bytes) -> str:
    r"""Decode a file or member name; bytes that are not UTF-8 become ``\xNN``."""
    return name.decode("utf-8", "backslashreplace")
