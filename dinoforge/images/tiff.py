"""TIFF: a copy whose first directory holds only the tags that pixels need.

Files whose first picture is not the picture (camera raw, reduced copies, masks) are refused here,
and storage that Pillow misreads is corrected or refused.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.images.container import Container, Storage
from dinoforge.images.orientation import orientation_in
from dinoforge.images.policy import Undecodable

__all__ = ["describe_tiff", "is_tiff_cut", "read_tiff"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_MAKE, _ORIENTATION, _CHANNELS, _SAMPLE_FORMAT, _SUBSAMPLING = 271, 274, 277, 339, 530
_NEW_SUBFILE, _SUBFILE, _COLOR_MAP, _SUBDIRECTORIES, _INK_SET = 254, 255, 320, 330, 332
_TILE_WIDTH, _TILE_HEIGHT, _XMP, _DNG_VERSION = 322, 323, 700, 50706
# What Pillow and libtiff need for pixels: layout, bits, codecs and their tables, palette, colors.
_NEEDED = frozenset(
    {
        *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, 273, 277, 278, 279, 284, 292),
        *(293, 317, _COLOR_MAP, 322, 323, 324, 325, _INK_SET, 338, _SAMPLE_FORMAT, 347),
        *range(512, 522),
        *(529, _SUBSAMPLING, 531, 532, 50674),
    }
)
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
_BYTES = {5: 8, 10: 8, 11: 4, 12: 8}  # of a value of the types without integers
_SHORT = 3
_UNSIGNED, _SIGNED = 1, 2  # sample formats
_FORMATS = {_UNSIGNED: "unsigned integers", _SIGNED: "signed integers", 3: "floats"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 1, 3, 5, 6  # photometrics
_CFA, _LINEAR_RAW = 32803, 34892
_COMPRESSIONS = frozenset({*range(1, 9), 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000})
_THUMBNAIL = 15  # times as many pixels in a later page: the first one is a thumbnail
_MOST_ENTRIES = 1 << 16  # of a directory: one per tag; BigTIFF may claim any number
_FEW = 16  # numbers of an entry, subdirectories of a directory
_PAGES = 8  # that are looked at


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    value: bytes  # the field of 4 or 8 bytes: the values, or their offset


_Directory = Mapping[int, _Entry]


@dataclass(frozen=True)
class _File:
    """Read directories and numbers; whatever lies outside the data is absent."""

    data: bytes
    order: str  # of struct
    is_big: bool

    @property
    def codes(self) -> tuple[str, str, str]:
        """Codes of `struct` for the number of entries, an entry, and an offset."""
        return ("Q", "HHQ8s", "Q") if self.is_big else ("H", "HHI4s", "I")

    @property
    def first(self) -> int:
        return self._number(self.codes[2], 8 if self.is_big else 4)

    @property
    def num_entries(self) -> int:
        return self._number(self.codes[0], self.first)

    @property
    def is_cut(self) -> bool:
        """Whether the data ends before the first directory does."""
        size = struct.calcsize(self.codes[0])
        size += self.num_entries * struct.calcsize(self.order + self.codes[1])
        return not 0 < self.first <= len(self.data) - size

    def directory(self, at: int) -> tuple[dict[int, _Entry], int]:
        """Return the entries of a directory and the offset of the next, 0 for none."""
        counter, layout, offset = self.codes
        count = self._number(counter, at)
        at += struct.calcsize(counter)
        step = struct.calcsize(self.order + layout)
        held = max(0, min(count, _MOST_ENTRIES, (len(self.data) - at) // step))
        entries: dict[int, _Entry] = {}
        for tag, *rest in struct.iter_unpack(self.order + layout, self.data[at : at + held * step]):
            entries.setdefault(tag, _Entry(*rest))
        return entries, self._number(offset, at + held * step) if held == count else 0

    def content(self, entry: _Entry, limit: int) -> bytes:
        """Return the bytes of an entry's first ``limit`` values."""
        size = struct.calcsize(_CODES.get(entry.kind, "B"))
        if entry.count * size <= len(entry.value):
            return entry.value[: entry.count * size]
        (at,) = struct.unpack(self.order + self.codes[2], entry.value)
        return self.data[at : at + min(entry.count, limit) * size]

    def has_content(self, entry: _Entry) -> bool:
        """Return whether all values of an entry lie inside the data."""
        size = struct.calcsize(_CODES.get(entry.kind, "B"))
        size = entry.count * _BYTES.get(entry.kind, size)
        (at,) = struct.unpack(self.order + self.codes[2], entry.value)
        return size <= len(entry.value) or at + size <= len(self.data)

    def has_pixels(self, entries: _Directory) -> bool:
        """Return whether all strips and tiles lie inside the data."""
        for tags in ((273, 279), (324, 325)):
            starts, sizes = (self._floats(entries, tag) for tag in tags)
            num = min(len(starts), len(sizes))
            if (starts[:num] + sizes[:num] > len(self.data)).any():
                return False
        return True

    def numbers(self, entries: _Directory, tag: int) -> tuple[int, ...]:
        """Return the first few integers of an entry, none if it has none."""
        entry = entries.get(tag)
        if entry is None or entry.kind not in _CODES:
            return ()
        code = _CODES[entry.kind]
        content = self.content(entry, _FEW)
        num = min(_FEW, len(content) // struct.calcsize(code))
        return struct.unpack(f"{self.order}{num}{code}", content[: num * struct.calcsize(code)])

    def number(self, entries: _Directory, tag: int, default: int = 0) -> int:
        return (*self.numbers(entries, tag), default)[0]

    def with_first(self, entries: _Directory, following: int) -> bytes:
        """Return the file with another first directory.

        In the place of its own: at the end it would be read as pixels where these are cut short.
        """
        counter, layout, offset = self.codes
        parts = [struct.pack(self.order + counter, len(entries))]
        for tag, entry in sorted(entries.items()):
            parts.append(
                struct.pack(self.order + layout, tag, entry.kind, entry.count, entry.value)
            )
        parts.append(struct.pack(self.order + offset, following))
        packed, view, at = b"".join(parts), memoryview(self.data), self.first
        if len(entries) <= self.num_entries:
            return b"".join([view[:at], packed, view[at + len(packed) :]])
        if not self.has_pixels(entries):
            raise Undecodable("truncated", f"TIFF whose pixels end after {len(self.data)} bytes")
        head, padding = 8 if self.is_big else 4, bytes(-len(self.data) % 8)
        start = struct.pack(self.order + offset, len(self.data) + len(padding))
        return b"".join([view[:head], start, view[head + len(start) :], padding, packed])

    def short(self, *values: int) -> _Entry:
        """Make an entry of a few 16-bit numbers."""
        field = struct.pack(f"{self.order}{len(values)}H", *values)
        return _Entry(_SHORT, len(values), field.ljust(8 if self.is_big else 4, b"\0"))

    def _floats(self, entries: _Directory, tag: int) -> NDArray[np.float64]:
        """Return all integers of an entry, of any number, as floats, which do not overflow."""
        entry = entries.get(tag)
        if entry is None or entry.kind not in _CODES:
            return np.empty(0)
        dtype = np.dtype(self.order + _CODES[entry.kind])
        content = self.content(entry, entry.count)
        return np.frombuffer(content, dtype, len(content) // dtype.itemsize).astype(np.float64)

    def _number(self, code: str, at: int) -> int:
        size = struct.calcsize(code)
        if at + size > len(self.data):
            return 0
        return struct.unpack_from(self.order + code, self.data, at)[0]


def read_tiff(data: bytes) -> Container:
    """Replace the first directory.

    Raises
    ------
    Undecodable
        ``unsupported`` for files whose first picture is not the picture, and for storage that
        Pillow misreads; ``truncated`` if the directory or its values are incomplete, and
        ``damaged`` without size or palette.
    """
    if data[2:4] == b"\0+":
        raise Undecodable("unsupported", "BigTIFF in big-endian order")
    file = _file(data)
    if file.is_cut:
        raise Undecodable("truncated", f"TIFF whose directory lies behind its {len(data)} bytes")
    entries, following = file.directory(file.first)
    _refuse_previews(file, entries, following)
    _refuse_storage(file, entries)
    needed = {tag: entry for tag, entry in entries.items() if tag in _NEEDED}
    for tag, entry in needed.items():
        if not file.has_content(entry):
            detail = f"TIFF whose tag {tag} lies behind its {len(data)} bytes"
            raise Undecodable("truncated", detail)
    storage = _finish(file, needed)
    orientation = file.number(entries, _ORIENTATION)
    if _ORIENTATION not in entries and _XMP in entries:
        orientation = orientation_in(b"", file.content(entries[_XMP], 1 << 20))
    size = file.number(entries, _WIDTH), file.number(entries, _HEIGHT)
    if 0 in size:
        raise Undecodable("damaged", "TIFF without width or height")
    tile = file.number(entries, _TILE_WIDTH), file.number(entries, _TILE_HEIGHT)
    return Container(
        file.with_first(needed, following), orientation, storage=storage, sizes=(size, tile)
    )


def is_tiff_cut(data: bytes) -> bool:
    """Return whether the data ends before the first directory or one of its strips or tiles."""
    file = _file(data)
    return file.is_cut or not file.has_pixels(file.directory(file.first)[0])


def describe_tiff(data: bytes) -> str:
    """Return what the pixels of a TIFF are that Pillow does not read."""
    file = _file(data)
    entries, _ = file.directory(file.first)
    kind = _FORMATS.get(file.number(entries, _SAMPLE_FORMAT, 1), "values")
    bits, num = file.number(entries, _BITS, 1), file.number(entries, _CHANNELS, 1)
    color = file.number(entries, _PHOTOMETRIC)
    return f"TIFF of {bits}-bit {kind}, {num} per pixel, photometric {color}"


def _file(data: bytes) -> _File:
    return _File(data, "<" if data[:2] == b"II" else ">", is_big=data[2:3] == b"+")


def _refuse_previews(file: _File, entries: _Directory, following: int) -> None:
    """Refuse camera raw, and files whose first picture is a copy or mask of another one."""
    maker = file.content(entries[_MAKE], 40) if _MAKE in entries else b""
    name = maker.split(b"\0")[0].decode("latin-1").strip()
    by = f" ({name})" if name.isprintable() and name else ""
    if _DNG_VERSION in entries:
        raise Undecodable("unsupported", f"DNG camera raw{by}")
    if file.data[8:12] in (b"IIII", b"MMMM"):
        raise Undecodable("unsupported", f"IIQ camera raw{by}")
    if file.data[8:10] == b"CR":
        raise Undecodable("unsupported", f"CR2 camera raw{by}")
    if file.number(entries, _PHOTOMETRIC) in (_CFA, _LINEAR_RAW):
        raise Undecodable("unsupported", f"camera raw{by}: values of a sensor, not colors")
    subfile = file.number(entries, _NEW_SUBFILE)
    if subfile & 4 or file.number(entries, _SUBFILE) == 4:
        raise Undecodable("unsupported", "TIFF whose first page is a transparency mask")
    width, height = file.number(entries, _WIDTH), file.number(entries, _HEIGHT)
    if subfile & 1 or file.number(entries, _SUBFILE) == 2:
        detail = f"first page, {width} x {height}, is a reduced copy of another picture"
        raise Undecodable("unsupported", f"TIFF whose {detail}{by}")
    for inner, times in _others(file, entries, following):
        size = file.number(inner, _WIDTH), file.number(inner, _HEIGHT)
        if size[0] * size[1] > width * height * times:
            detail = f"{width} x {height}, previews one of {size[0]} x {size[1]}"
            raise Undecodable("unsupported", f"TIFF whose first picture, {detail}{by}")


def _others(file: _File, entries: _Directory, following: int) -> Iterator[tuple[_Directory, int]]:
    """Yield directories of other pictures, and how many times as large as the first they may be.

    A page that follows may be larger, but not as a picture is larger than its thumbnail.
    """
    for at in file.numbers(entries, _SUBDIRECTORIES):
        yield file.directory(at)[0] if at else {}, 1
    for _ in range(_PAGES):
        if following:
            inner, following = file.directory(following)
            yield inner, _THUMBNAIL


def _refuse_storage(file: _File, entries: _Directory) -> None:
    """Refuse what Pillow misreads."""
    compression = file.number(entries, _COMPRESSION, 1)
    photometric = file.number(entries, _PHOTOMETRIC)
    if compression not in _COMPRESSIONS:
        raise Undecodable("unsupported", f"TIFF with compression {compression}")
    if photometric == _PALETTE and _COLOR_MAP not in entries:
        raise Undecodable("damaged", "TIFF of palette colors without its palette")
    if photometric == _CMYK and file.number(entries, _INK_SET, 1) != 1:
        raise Undecodable("unsupported", "TIFF of inks other than cyan, magenta, yellow, black")
    if file.number(entries, _SAMPLE_FORMAT, 1) == _SIGNED and file.number(entries, _BITS) == 8:
        raise Undecodable("unsupported", "TIFF of 8-bit values with a sign")
    subsampling = file.numbers(entries, _SUBSAMPLING) or (2, 2)  # the default of the standard
    if photometric == _YCBCR and compression == 1 and subsampling != (1, 1):
        raise Undecodable("unsupported", "TIFF of uncompressed YCbCr with subsampled colors")


def _finish(file: _File, needed: dict[int, _Entry]) -> Storage:
    """Replace entries so that Pillow reads the raw values; describe what these values mean."""
    bits = set(file.numbers(needed, _BITS)) or {1}
    is_unsigned = set(file.numbers(needed, _SAMPLE_FORMAT)) <= {_UNSIGNED}
    is_inverted = file.number(needed, _PHOTOMETRIC) == _WHITE_IS_ZERO and min(bits) > 8
    if is_inverted:
        needed[_PHOTOMETRIC] = file.short(_BLACK_IS_ZERO)
    if is_unsigned and bits == {32}:
        needed[_SAMPLE_FORMAT] = file.short(_SIGNED)
    return Storage(
        inverted=is_inverted,
        unsigned=is_unsigned and bits == {32},
        high=4095 if bits == {12} else None,
        wide=max(bits) > 8,
    )
