"""Members of a tar by offset: their names, and whether the archive ends as it should.

Python's `tarfile` and readers built on it silently take a damaged header or a file truncated
between members for the end of the archive. Here the ending is a result. Formats: v7, ustar, star,
GNU (long names, base-256 numbers, sparse members, volumes, incremental) and pax (also of Solaris).
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "BLOCK",
    "Ending",
    "Entry",
    "MemberName",
    "TarWalk",
    "is_header",
    "readable",
    "split_member_name",
]

BLOCK = 512
_ZEROS = bytes(BLOCK)
_END_BYTES = 41 * BLOCK  # of zeros: an end marker and padding to records of 10 KiB; twice by tar -A
_VOLUME_OFFSET = b"GNU.volume.offset"
_NAME_LIMIT = 1 << 20  # bytes; a longer name is damage
_PAX_LIMIT = 64 << 20  # bytes; the map of a sparse member may take megabytes
_SIZE_DIGITS = 20  # of any file; Python refuses to read numbers of thousands of digits
_FOLDER_KINDS = (b"5", b"D")  # GNU incremental: the data of D are the names in the folder
_PAX_KINDS = (b"x", b"X", b"g")  # X: Solaris
_METADATA_KINDS = (b"A", b"E", b"N", b"V")  # access lists, attributes, old long names, labels
_OTHER_KINDS = (b"1", b"2", b"3", b"4", b"6", b"I", b"M", b"S")  # links, devices, volumes, sparse
# M between two members: GNU tar repeats the header of the second.
_KINDS_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6", b"I", b"M", b"V")


class Entry(NamedTuple):
    """One member: offset and size of its data, and its first bytes (at most 512)."""

    name: str
    kind: bytes  # type flag; b"0" for files and b"5" for folders of every format
    offset: int
    size: int
    head: bytes


@dataclass(frozen=True)
class Ending:
    """How the archive ends: ``reason`` is None for a proper end, else one of `SHARD_REASONS`."""

    reason: str | None
    at: int
    member: str = ""


@dataclass(slots=True)
class _Extensions:
    """What the headers before a member state about it."""

    everywhere: dict[bytes, bytes] = field(default_factory=dict)  # for all members that follow
    pax: dict[bytes, bytes] = field(default_factory=dict)
    long_name: bytes = b""

    def read(self, kind: bytes, data: bytes) -> None:
        if kind == b"g":
            self.everywhere |= _pax_records(data)
        elif kind == b"L":
            self.long_name = data.partition(b"\0")[0]
        elif kind in _PAX_KINDS:
            self.pax |= _pax_records(data)

    def take(self) -> tuple[dict[bytes, bytes], bytes]:
        """Return records and long name for the next member; its own end with it."""
        if not (self.everywhere or self.pax or self.long_name):  # most members
            return {}, b""
        # An empty value removes what the header or an earlier record states.
        pax = {key: value for key, value in (self.everywhere | self.pax).items() if value}
        # The one global header that is of one member: the rest of a file on an earlier volume.
        self.everywhere.pop(_VOLUME_OFFSET, None)
        long_name, self.long_name, self.pax = self.long_name, b"", {}
        return pax, long_name


class TarWalk:
    """Iterate over the members of an open file; the rest is valid afterwards.

    ``pread(size, at)`` reads from it, at its end fewer bytes; its size is ``num_bytes``.
    ``ending`` is how it ends, ``appended`` where further archives begin, which are read, too
    (``cat a.tar b.tar``; what ``tar -i`` does), ``long_zeros`` where more zeros begin than tools
    write, as in a file that a download reserved and did not fill.
    """

    def __init__(self, pread: Callable[[int, int], bytes], num_bytes: int) -> None:
        self._pread = pread
        self._num_bytes = num_bytes
        self._extensions = _Extensions()
        self.ending = Ending("no_end_marker", 0)
        self.appended: list[int] = []
        self.long_zeros: list[int] = []

    def __iter__(self) -> Iterator[Entry]:
        """Yield members in the order of the file."""
        at = 0
        while (header := self._header(at)) is not None:
            at, block = header
            kind, size, data_at = block[156:157], _number(block[124:136]), at + BLOCK
            if kind in _PAX_KINDS or kind in (b"L", b"K"):
                data = self._extension(data_at, size, kind)
                if data is None:
                    return
                self._extensions.read(kind, data)
                at = _next(data_at, size)
                continue
            pax, long_name = self._extensions.take()
            raw_name = long_name or _short_name(block)
            if pax:
                size = int(pax.get(b"size", size))
                raw_name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or raw_name
                kind = b"M" if _VOLUME_OFFSET in pax else kind
            name = readable(raw_name)
            if kind == b"S":
                data_at = self._after_sparse_map(block, data_at)
            has_data = self._has_data(kind, name, data_at, size)
            if has_data and data_at + size > self._num_bytes:
                self.ending = Ending("truncated", data_at, name)
                return
            if kind not in _METADATA_KINDS and (kind != b"M" or has_data):
                kind = _plain_kind(kind, name, pax, has_data=has_data and size > 0)
                yield Entry(name, kind, data_at, size, block[BLOCK : BLOCK + size])
            at = _next(data_at, size) if has_data else data_at

    def _header(self, at: int) -> tuple[int, bytes] | None:
        """Read the next header and the block after it; None at the end, with ``ending`` set."""
        if at >= self._num_bytes:
            self.ending = Ending("no_end_marker", min(at, self._num_bytes))
            return None
        block = self._pread(2 * BLOCK, at)
        if len(block) < BLOCK:
            self.ending = Ending("truncated" if at > 0 else "not_a_tar", at)
            return None
        if block[:BLOCK] == _ZEROS:
            after = self._first_nonzero(at + BLOCK)
            if (self._num_bytes if after is None else after) - at > _END_BYTES:
                self.long_zeros.append(at)
            if after is None:
                self.ending = Ending(None, at)
                return None
            start = after // BLOCK * BLOCK
            block = self._pread(2 * BLOCK, start)
            if not is_header(block):
                self.ending = Ending("data_after_end", after)
                return None
            self.appended.append(start)
            self._extensions = _Extensions()
            return start, block
        if not is_header(block):
            is_tar = at > 0 or block[257:262] == b"ustar"
            self.ending = Ending("bad_header" if is_tar else "not_a_tar", at)
            return None
        return at, block

    def _extension(self, at: int, size: int, kind: bytes) -> bytes | None:
        if size > (_PAX_LIMIT if kind in _PAX_KINDS else _NAME_LIMIT):
            self.ending = Ending("bad_header", at - BLOCK)
            return None
        data = self._pread(size, at)
        if len(data) < size:
            self.ending = Ending("truncated", at)
            return None
        return data

    def _after_sparse_map(self, block: bytes, at: int) -> int:
        """Skip the blocks after the header of an old GNU or star sparse member."""
        is_extended = block[355 if _is_star(block) else 482]
        while is_extended:
            block = self._pread(BLOCK, at)
            at += BLOCK
            is_extended = len(block) == BLOCK and block[504]
        return at

    def _has_data(self, kind: bytes, name: str, at: int, size: int) -> bool:
        """Return whether data follow a header.

        Links and folders may state a size without having data; pax allows hard links with data.
        So the block decides which follows.
        """
        if not size or (kind not in _KINDS_WITHOUT_DATA and not name.endswith("/")):
            return True
        block = self._pread(BLOCK, at)
        return len(block) == BLOCK and block != _ZEROS and not is_header(block)

    def _first_nonzero(self, at: int) -> int | None:
        while piece := self._pread(1 << 20, at):
            rest = piece.lstrip(b"\0")
            if rest:
                return at + len(piece) - len(rest)
            at += len(piece)
        return None


def _next(data_at: int, size: int) -> int:
    return data_at + (size + BLOCK - 1) // BLOCK * BLOCK


def is_header(block: bytes) -> bool:
    """Return whether a block is the header of a member, by its checksum."""
    return len(block) >= BLOCK and _checksum_fits(block[:BLOCK]) and _is_number(block[124:136])


def _is_star(block: bytes) -> bool:
    return block[508:512] == b"tar\0"


def _short_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # The old GNU format ("ustar  ") keeps times in the prefix field, star at its end.
    if block[257:263] == b"ustar\0":
        prefix = block[345 : 476 if _is_star(block) else 500].partition(b"\0")[0]
        return prefix + b"/" + name if prefix else name
    return name


def _plain_kind(kind: bytes, name: str, pax: dict[bytes, bytes], *, has_data: bool) -> bytes:
    if kind in _FOLDER_KINDS:
        return b"5"
    if pax and any(key.startswith(b"GNU.sparse") for key in pax):
        return b"S"
    if kind == b"1" and has_data:  # a hard link with a copy of the file
        return b"0"
    if kind in _OTHER_KINDS:
        return kind
    # Unknown kinds are files in POSIX; v7 has folders without a kind of their own, and no data.
    return b"5" if name.endswith("/") and not has_data else b"0"


def _is_number(field: bytes) -> bool:
    if field[0] == 0x80:
        return True
    return not field.partition(b"\0")[0].strip(b" ").strip(b"01234567")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # base 256, for 8 GiB and more
        return int.from_bytes(field[1:], "big")
    return int(field.partition(b"\0")[0].strip(b" ") or b"0", 8)


def _checksum_fits(block: bytes) -> bool:
    field = block[148:156].strip(b" \0")
    if not field or field.strip(b"01234567"):
        return False
    stated = int(field, 8)
    # The sum counts its own field as eight spaces. The low half of Adler-32 is the sum modulo
    # 65,521, which 256 bytes do not reach: in half the time of `sum`.
    halves = (zlib.adler32(block[:256], 0) & 0xFFFF) + (zlib.adler32(block[256:], 0) & 0xFFFF)
    total = halves - sum(block[148:156]) + 8 * 0x20
    if total == stated:
        return True
    # Some old writers summed signed bytes.
    high = sum(byte >= 0x80 for byte in block[:148] + block[156:])
    return total - 256 * high == stated


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read ``LENGTH KEY=VALUE`` lines; stop at the first other line."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _SIZE_DIGITS)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else -1  # not even at its own start
        if not space < end <= len(data):
            break
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    size = records.get(b"size") or b"0"
    if not size.isdigit() or len(size) > _SIZE_DIGITS:
        del records[b"size"]
    return records


class MemberName(NamedTuple):
    """Key ``folder/stem``, and everything after the first dot of the base name in lower case."""

    key: str
    extension: str
    is_safe: bool  # False: absolute, or contains `..`


def split_member_name(name: str) -> MemberName | None:
    """Split at the first dot of the base name; None without a key. The extension may be empty.

    Empty, ``.`` and ``..`` parts of the folder are dropped, so that a file named by the key never
    leaves the folder it is written to.
    """
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem:
        return None
    if not folder and not name.startswith("/"):
        return MemberName(stem, extension.lower(), is_safe=True)
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    is_safe = not name.startswith("/") and ".." not in folder.split("/")
    return MemberName("/".join([*parts, stem]), extension.lower(), is_safe)


def readable(name: bytes) -> str:
    r"""Decode a file or member name; bytes that are not UTF-8 become ``\xNN``."""
    return name.decode("utf-8", "backslashreplace")
