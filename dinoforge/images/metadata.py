"""WebP, AVIF, JPEG 2000, PSD, DDS, SGI, icons and portable maps without metadata."""

import re
import struct
from collections.abc import Callable, Iterator, Mapping

from dinoforge.images.container import Container, Storage
from dinoforge.images.orientation import orientation_in
from dinoforge.images.png import PNG_SIGNATURE, read_png
from dinoforge.images.policy import Undecodable

__all__ = ["READERS", "is_cut", "read_avif"]

_PSD_VERSION = b"8BIM\x04\x21\0\0"  # then size and version, and whether the picture is real
_WEBP_METADATA = frozenset({b"ICCP", b"EXIF", b"XMP "})
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # in the first byte of VP8X
# The entry of an item in the list of an AVIF, and its configuration if it has more than 8 bits.
_AVIF_METADATA = re.compile(rb"(infe(?:\x02.{5}|\x03.{7})..)(?:Exif|mime)", re.DOTALL)
_AVIF_WIDE = re.compile(rb"av1C\x81.[\x40-\x7f\xc0-\xff]", re.DOTALL)
_PSD_UNREAD = {0: "bitmap", 7: "multichannel"}
_JP2_BOXES = frozenset({b"jP  ", b"ftyp", b"jp2h"})
_JP2_HEADERS = frozenset({b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"})
_CODESTREAM = b"\xff\x4f\xff\x51"
_PNM_HEADER = re.compile(rb"(P[2356])((?:(?:\s|#[^\r\n]*[\r\n])+\d+){3})\s")
_COMMENT = re.compile(rb"#[^\r\n]*")


def read_webp(data: bytes) -> Container:
    """Remove ICC profile, EXIF and XMP.

    Raises
    ------
    Undecodable
        ``truncated`` if the file is shorter than its header declares, as in libwebp.
    """
    if len(data) < 20 or 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise Undecodable("truncated", f"WebP that ends after {len(data)} bytes")
    view = memoryview(data)
    kept: list[bytes | memoryview] = []
    metadata: dict[bytes, bytes] = {}
    at, size = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= size:
        kind = data[at : at + 4]
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in _WEBP_METADATA:
            metadata.setdefault(kind, data[at + 8 : end])
        elif kind == b"VP8X" and end <= size:
            flags = bytes([data[at + 8] & ~_WEBP_METADATA_FLAGS])
            kept.append(b"".join([view[at : at + 8], flags, view[at + 9 : end]]))
        else:
            kept.append(view[at : end + end % 2])
        at = end + end % 2
    sizes = (_webp_size(data[12:30]),)
    if not metadata:
        return Container(data, 1, sizes=sizes)
    body = b"".join(kept)
    riff = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    orientation = orientation_in(metadata.get(b"EXIF", b""), metadata.get(b"XMP ", b""))
    return Container(riff, orientation, sizes=sizes)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Return the size that the first chunk declares."""
    kind, body = head[:4], head[8:].ljust(10, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def read_avif(data: bytes) -> Container:
    """Rename the items of EXIF and XMP; the orientation of an AVIF is in its container."""
    is_wide = _AVIF_WIDE.search(data) is not None
    return Container(_AVIF_METADATA.sub(rb"\1free", data), storage=Storage(wide=is_wide))


def read_dds(data: bytes) -> Container:
    """Recognize compressed floats (BC6H)."""
    is_wide = data[84:88] == b"DX10" and data[128:132] in (b"\x5f\0\0\0", b"\x60\0\0\0")
    return Container(data, 1, storage=Storage(wide=is_wide))


def read_sgi(data: bytes) -> Container:
    """Read the number of bytes per value."""
    return Container(data, 1, storage=Storage(wide=data[3] == 2))


def read_psd(data: bytes) -> Container:
    """Remove the image resources: paths, thumbnails, ICC profiles.

    Raises
    ------
    Undecodable
        ``unsupported`` if one of them declares that the flattened picture is a placeholder, and for
        colors that Pillow misreads or does not read.
    """
    version, depth, mode = (int.from_bytes(data[at : at + 2], "big") for at in (4, 22, 24))
    if version == 2:
        raise Undecodable("unsupported", "PSB, the large variant of PSD")
    if version != 1 or len(data) < 26:
        return Container(data, 1)
    if mode in _PSD_UNREAD:
        raise Undecodable("unsupported", f"PSD in {_PSD_UNREAD[mode]} mode")
    if depth != 8:
        raise Undecodable("unsupported", f"PSD of {depth} bits per value")
    at = 26  # of the color mode data
    for _ in range(2):
        start, size = at, int.from_bytes(data[at : at + 4], "big")
        at += 4 + size
    # Lengths of all layers and of their headers, then the number of layers: if it is negative, the
    # fourth channel is transparency, else a selection that was saved.
    (num_layers,) = struct.unpack(">h", data[at + 8 : at + 10].ljust(2, b"\0"))
    is_opaque = num_layers >= 0 or not any(data[at : at + 4]) or not any(data[at + 4 : at + 8])
    if not size or at > len(data):
        return Container(data, 1, is_opaque=is_opaque)
    version_at = data.find(_PSD_VERSION, start, at)
    if version_at > 0 and data[version_at + 16 : version_at + 17] == b"\0":
        raise Undecodable("unsupported", "PSD saved without its flattened picture")
    return Container(b"".join([data[:start], bytes(4), data[at:]]), 1, is_opaque=is_opaque)


def read_ico(data: bytes) -> Container:
    """Append a copy of each PNG without its text, and point the directory to it.

    A bitmap of 32 bits whose alpha is 0 everywhere is declared as one of 24, so that Pillow takes
    its mask.

    Raises
    ------
    Undecodable
        ``truncated`` if a picture lies behind the end: Pillow would read on into the copies.
    """
    changed, unread, is_wide = bytearray(data), len(data), False
    sizes: list[tuple[int, int]] = []
    for entry in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
        size, at = struct.unpack("<II", data[entry + 8 : entry + 16].ljust(8, b"\xff"))
        if at + size > len(data):
            raise Undecodable("truncated", f"icon that ends after {len(data)} bytes")
        unread -= size
        if unread < 0:  # overlapping entries, in no real icon
            break
        if data.startswith(PNG_SIGNATURE, at):
            png = read_png(data[at : at + size], is_inside=True)
            is_wide |= png.storage.wide
            sizes.extend(png.sizes)
            struct.pack_into("<II", changed, entry + 8, len(png.data), len(changed))
            changed += png.data
        elif len(header := data[at : at + 12]) == 12:  # a bitmap and its mask
            width, height = struct.unpack("<ii", header[4:])
            sizes.append((abs(width), abs(height) // 2))
            if data[entry + 6 : entry + 8] == b"\x20\0" and _has_only_mask(data[at : at + size]):
                changed[entry + 6] = 24
    return Container(bytes(changed), 1, storage=Storage(wide=is_wide), sizes=tuple(sizes))


def _has_only_mask(bitmap: bytes) -> bool:
    """Return whether all alpha values are 0 and a mask of 1 bit per pixel follows."""
    if len(bitmap) < 16:
        return False
    start, width, height, bits = struct.unpack_from("<Iii2xH", bitmap)
    height = abs(height) // 2
    end = start + 4 * abs(width) * height
    has_mask = len(bitmap) >= end + (abs(width) + 31) // 32 * 4 * height
    return bits == 32 and has_mask and not any(bitmap[start + 3 : end : 4])


def read_icns(data: bytes) -> Container:
    """Remove the text of each PNG."""
    parts: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    is_wide = False
    for kind, block in _icns_blocks(data):
        is_png = block.startswith(PNG_SIGNATURE)
        png = read_png(block, is_inside=True) if is_png else Container(block)
        is_wide |= png.storage.wide
        sizes.extend(png.sizes)
        parts.append(kind + struct.pack(">I", 8 + len(png.data)) + png.data)
    packed = b"".join(parts)
    icns = b"icns" + struct.pack(">I", 8 + len(packed)) + packed
    return Container(icns, 1, storage=Storage(wide=is_wide), sizes=tuple(sizes))


def _icns_blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        if size <= 8:  # Pillow refuses it
            yield data[at : at + 4], b""
            return
        yield data[at : at + 4], data[at + 8 : at + size]
        at += size


def read_jp2(data: bytes) -> Container:
    """Keep the boxes of the picture; read size and bit depth from its codestream.

    The header boxes may declare another size.

    Raises
    ------
    Undecodable
        ``unsupported`` if Pillow would shift the values to 8 bits: white becomes gray or black.
    """
    if not data.startswith(_CODESTREAM):
        data = b"".join(_jp2_boxes(data, _JP2_BOXES))
    at = data.find(_CODESTREAM) + 4
    if at < 4 or len(data) < at + 39:
        return Container(data, 1)
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 4)
    (channels,) = struct.unpack_from(">H", data, at + 36)
    depths = {(coded & 0x7F) + 1 for coded in data[at + 38 : at + 38 + 3 * channels : 3]}
    bits = max(depths, default=8)
    if depths - {8} and (channels > 1 or not 8 <= bits <= 16):
        kind = "channel" if channels == 1 else "channels"
        detail = " and ".join(map(str, sorted(depths)))
        raise Undecodable("unsupported", f"JPEG 2000 of {channels} {kind} of {detail} bits")
    storage = Storage(unit=2.0 ** (16 - bits) if bits > 8 else 1.0)
    return Container(data, 1, storage=storage, sizes=((right - left, bottom - top),))


def _jp2_boxes(data: bytes, kinds: frozenset[bytes]) -> Iterator[bytes]:
    for kind, at, start, end in _boxes(data):
        if kind == b"jp2c":  # the last one
            yield data[at:]
            return
        if kind == b"jp2h" and end <= len(data):
            body = b"".join(_jp2_boxes(data[start:end], _JP2_HEADERS))
            yield struct.pack(">I4s", len(body) + 8, kind) + body
        elif kind in kinds:
            yield data[at:end]


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield kind, place, and start and end of the content of each box; it may end behind the data.

    A box without a valid size is the last one.
    """
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:  # the size follows, in 64 bits
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if start - at <= size else len(data)
        yield data[at + 4 : at + 8], at, start, end
        at = end


def read_pnm(data: bytes) -> Container:
    """Remove comments; compute the factor by which Pillow scales wide gray values.

    Raises
    ------
    Undecodable
        ``unsupported`` for colors as floats.
    """
    if data.startswith(b"PF"):
        raise Undecodable("unsupported", "portable float map in color is not read")
    header = _PNM_HEADER.match(data)
    if header is None:
        return Container(data, 1)
    numbers = _COMMENT.sub(b"", header[2]).split()
    maximum = int(numbers[2][:10])
    is_wide = header[1] in (b"P2", b"P5") and 255 < maximum < 65_536
    return Container(
        b" ".join([header[1], *numbers]) + b"\n" + data[header.end() :],
        1,
        storage=Storage(unit=65_535 / maximum if is_wide else 1.0, wide=maximum > 255),
    )


# By Pillow's name of the format.
READERS: Mapping[str, Callable[[bytes], Container]] = {
    "AVIF": read_avif,
    "DDS": read_dds,
    "ICNS": read_icns,
    "ICO": read_ico,
    "JPEG2000": read_jp2,
    "PPM": read_pnm,
    "PSD": read_psd,
    "SGI": read_sgi,
    "WEBP": read_webp,
}


def is_cut(name: str, data: bytes) -> bool:
    """Return whether an AVIF, JPEG 2000 or ICNS is shorter than it declares."""
    if name == "ICNS":
        return int.from_bytes(data[4:8], "big") > len(data)
    if name not in ("AVIF", "JPEG2000") or data.startswith(_CODESTREAM):
        return False
    return max((end for *_, end in _boxes(data)), default=0) != len(data)
