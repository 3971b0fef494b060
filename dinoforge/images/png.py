"""PNG: keep the chunks that pixels need; read orientation and frames from the others."""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from dinoforge.images.container import Container, Storage
from dinoforge.images.orientation import orientation_in
from dinoforge.images.policy import Undecodable

__all__ = ["PNG_SIGNATURE", "lacks_rows", "read_png"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_TEXT_BYTES = 1 << 20  # of a text, uncompressed, that are searched for an orientation
_EXIF_KEYWORD, _XMP_KEYWORD = b"Raw profile type exif", b"XML:com.adobe.xmp"
_PIECE_BYTES = 1 << 20  # of image data uncompressed at a time
# Left, top and steps of the pixels of each pass of an interlaced image.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)
_is_kind = re.compile(rb"\w{4}").fullmatch


@dataclass
class _Chunks:
    """State of one pass over the chunks."""

    kept: list[bytes | memoryview] = field(default_factory=list)
    fault: str | None = None
    exif: bytes = b""
    texts: dict[bytes, bytes] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    depth: int = 8
    color: int = 2
    num_frames: int = 1
    num_animation_headers: int = 0
    is_default_animated: bool = False  # the image data is the first frame of the animation
    has_palette: bool = False
    has_data: bool = False
    has_end: bool = False
    is_inside: bool = False

    def add(self, kind: bytes, chunk: memoryview) -> None:
        body = chunk[8:-4]
        if kind in _NEEDED or kind[:1].isupper():
            self._add_needed(kind, chunk, body)
        elif kind == b"eXIf" and _is_intact(chunk):
            self.exif = bytes(body)
        elif kind in _TEXTS and _is_intact(chunk):
            keyword, text = _text(kind, bytes(body[: _TEXT_BYTES + 1024]))
            if text:
                self.texts.setdefault(keyword, text)
        elif kind == b"acTL" and len(body) >= 8 and not self.has_data:
            self.num_animation_headers += 1
            self.num_frames = int.from_bytes(body[:4], "big")
        elif kind == b"fcTL" and not self.has_data:
            self.is_default_animated = True

    def _add_needed(self, kind: bytes, chunk: memoryview, body: memoryview) -> None:
        if kind == b"CgBI":
            raise Undecodable("unsupported", "PNG in the CgBI variant of iPhone apps")
        if self.fault is None and not _is_intact(chunk):
            self.fault = f"checksum of chunk {kind.decode('latin-1')!r}"
        if kind == b"IHDR" and len(body) >= 10:
            width, height, self.depth, self.color = struct.unpack(">IIBB", body[:10])
            self.size = width, height
        self.has_palette |= kind == b"PLTE"
        self.has_data |= kind == b"IDAT"
        self.has_end |= kind == b"IEND"
        if kind == b"IHDR" and self.splits_gray:
            self.kept.append(_chunk(kind, bytes([*body[:8], 8, 6, *body[10:]])))
        else:
            self.kept.append(self._transparency(chunk) if kind == b"tRNS" else chunk)

    def _transparency(self, chunk: memoryview) -> bytes | memoryview:
        """Convert the transparent color to the values that Pillow compares it with.

        The standard uses the lowest bits if there are fewer than 16; Pillow compares all 16 bits,
        and compares 2- and 4-bit values with gray values scaled to 8 bits.
        """
        depth, size = self.depth, {0: 2, 2: 6}.get(self.color, 0)
        if len(chunk) < 12 + size:
            return b""  # as in libpng
        if depth not in (1, 2, 4, 8) or not size:
            return chunk
        largest = (1 << depth) - 1
        values = struct.unpack(f">{size // 2}H", chunk[8 : 8 + size])
        scaled = [(value & largest) * 255 // largest for value in values]
        return _chunk(b"tRNS", struct.pack(f">{size // 2}H", *scaled))

    def frames(self) -> int:
        if self.num_animation_headers != 1 or not 0 < self.num_frames <= 1 << 31:
            return 1
        return self.num_frames + (not self.is_default_animated)

    @property
    def splits_gray(self) -> bool:
        """Whether 16-bit gray with alpha is declared as 8-bit RGBA; see `read_png`."""
        return (self.depth, self.color) == (16, 4) and not self.is_inside


def read_png(data: bytes, is_inside: bool = False) -> Container:
    """Keep critical chunks and transparency; a file truncated inside other chunks is complete.

    16-bit gray with alpha, of which Pillow keeps the upper bytes, is declared as 8-bit RGBA, which
    has the same bytes; not ``is_inside`` an icon.
    """
    view, chunks = memoryview(data), _Chunks(is_inside=is_inside)
    at = len(PNG_SIGNATURE)
    for kind, start, end in _walk(data):
        chunks.add(kind, view[start:end])
        at = end
        if chunks.has_end:
            break
    kind = data[at + 4 : at + 8]
    if not chunks.has_end and (not _is_kind(kind) or kind in _NEEDED or kind[:1].isupper()):
        chunks.kept.append(view[at:])
    if chunks.color == 3 and not chunks.has_palette and chunks.fault is None:
        chunks.fault = "PNG of palette colors without its palette"
    exif, xmp = chunks.exif, chunks.texts.get(_XMP_KEYWORD, b"")
    if not exif and _EXIF_KEYWORD in chunks.texts:
        exif = _from_hexadecimal(chunks.texts[_EXIF_KEYWORD])
    return Container(
        data=b"".join([PNG_SIGNATURE, *chunks.kept]),
        orientation=orientation_in(exif, xmp),
        num_frames=chunks.frames(),
        has_end=chunks.has_end,
        fault=chunks.fault,
        storage=Storage(wide=chunks.depth == 16, gray_alpha=chunks.splits_gray),
        sizes=(chunks.size,),
    )


def lacks_rows(data: bytes) -> bool:
    """Return whether a complete stream of image data holds fewer rows than the header declares."""
    width, height, depth, color, interlaced = struct.unpack_from(">IIBB2xB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    unread = 0
    for left, top, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        num_columns, num_rows = -((left - width) // step_x), -((top - height) // step_y)
        unread += num_rows * (1 + (num_columns * bits + 7) // 8) if num_columns > 0 else 0
    stream = zlib.decompressobj()
    for kind, start, end in _walk(data):
        packed = data[start + 8 : end - 4] if kind == b"IDAT" else b""
        while packed and unread > 0 and not stream.eof:
            unread -= len(stream.decompress(packed, min(unread, _PIECE_BYTES)))
            packed = stream.unconsumed_tail
    return unread > 0


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each complete chunk."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data) or not _is_kind(kind):
            return
        yield kind, at, end
        at = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return keyword and text; no text for a keyword that never holds an orientation."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in (_EXIF_KEYWORD, _XMP_KEYWORD):
        return keyword, b""
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":  # flag, method, language, translated keyword
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if not is_packed:
        return keyword, rest
    try:
        return keyword, zlib.decompressobj().decompress(rest, _TEXT_BYTES)
    except zlib.error:
        return keyword, b""


def _from_hexadecimal(text: bytes) -> bytes:
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""
