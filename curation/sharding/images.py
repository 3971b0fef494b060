"""What a shard's table notes about an image, and the encoding of one that is too large."""

import io
import struct
from typing import Literal

from PIL import Image

from dinoforge.images import DecodePolicy, Undecodable, decode_image, resize
from dinoforge.images.decode import read_header
from dinoforge.images.formats import SNIFF_BYTES, sniff

__all__ = ["ENCODED_SUFFIX", "image_size", "shrink"]

ENCODED_SUFFIX = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def image_size(data: bytes, suffix: str) -> tuple[str, int, int]:
    """Return format, width and height by the header, as stored; "" or 0 for what is unknown.

    JPEG and PNG are read here, other formats by Pillow.
    """
    name = sniff(data[:SNIFF_BYTES], suffix) or ""
    try:
        if name == "JPEG":
            header = read_header(data)
            return (name, header.width, header.height) if header is not None else (name, 0, 0)
        if name == "PNG" and data[12:16] == b"IHDR":
            return name, *struct.unpack(">II", data[16:24])
        with Image.open(io.BytesIO(data)) as image:
            return name or str(image.format), *image.size
    except (
        Undecodable,
        OSError,
        ValueError,
        SyntaxError,
        struct.error,
        Image.DecompressionBombError,
    ):
        return name, 0, 0


def shrink(
    data: bytes,
    policy: DecodePolicy,
    short_side: int,
    quality: int,
    encoding: Literal["jpeg", "png", "webp"],
) -> bytes | None:
    """Return the image with a shorter side of ``short_side`` pixels; None if it is not larger.

    Decoded upright to RGB, resized by Pillow's antialiased bicubic kernel, without metadata.

    Raises
    ------
    Undecodable
        If the image does not decode.
    """
    pixels = decode_image(data, policy).pixels
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= short_side:
        return None
    scale = short_side / short
    target = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    small = Image.fromarray(resize(pixels, *target))
    options = {} if encoding == "png" else {"quality": quality}
    small.save(file, encoding.upper(), **options)
    return file.getvalue()
