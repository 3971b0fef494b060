"""Image files written byte by byte: storage and metadata that no library would write."""

import io
import struct
import zlib

from PIL import Image

# EXIF orientation -> what turns the stored picture upright.
MOVES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def chunk(kind, body=b"", wrong=0):
    """Make a PNG chunk; ``wrong`` falsifies its checksum."""
    checksum = zlib.crc32(kind + body) ^ wrong
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(rows, depth, color, *, before=b"", after=b"", width=None):
    """Make a PNG of packed ``rows`` (bytes, without filters); chunks may stand around its data."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    width = width or len(rows[0]) * 8 // (depth * samples)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header), before, chunk(b"IDAT", data), after, chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(strips, size, bits, photometric, *, order="<", compression=1, tags=(), following=0):
    """Make a TIFF of one directory (at byte 8) over ``strips`` of bytes, one per plane.

    ``tags`` are (tag, type, values) with values as a list of numbers or as bytes.
    """
    samples = len(bits)
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    entries = {256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, bits), 259: (3, [compression])}
    entries |= {262: (3, [photometric]), 277: (3, [samples]), 278: (4, [size[1]])}
    entries |= {273: (4, [0] * len(strips)), 279: (4, [len(strip) for strip in strips])}
    entries |= {tag: (kind, values) for tag, kind, values in tags}
    codes = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 13: "I"}
    packed = {}
    for tag, (kind, values) in entries.items():
        body = values
        if not isinstance(values, bytes):
            body = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        packed[tag] = [kind, len(body) // struct.calcsize(codes.get(kind, "B")), body]
    at = 8 + 2 + 12 * len(packed) + 4
    tail = b""
    for tag, (_, _, body) in packed.items():
        if len(body) > 4 and tag != 273:
            packed[tag][2] = struct.pack(order + "I", at + len(tail))
            tail += body + b"\0" * (len(body) % 2)
    strips_at = at + len(tail) + (4 * len(strips) if len(strips) > 1 else 0)
    offsets = [strips_at + sum(map(len, strips[:before])) for before in range(len(strips))]
    where = struct.pack(f"{order}{len(offsets)}I", *offsets)
    if len(strips) > 1:
        packed[273][2] = struct.pack(order + "I", at + len(tail))
        tail += where
    else:
        packed[273][2] = where
    body = b"".join(
        struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
        for tag, (kind, count, value) in sorted(packed.items())
    )
    head = b"II*\0" if order == "<" else b"MM\0*"
    head += struct.pack(order + "IH", 8, len(packed))
    return head + body + struct.pack(order + "I", following) + tail + b"".join(strips)


def encoded(pixels, kind="PNG", **options):
    """Encode a picture as a file by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
