"""Orientation: read from EXIF or XMP, applied to pixels."""

import re
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.images.quiet import quiet_pillow

__all__ = ["orientation_in", "read_orientation", "upright"]

_ORIENTATION = 0x0112  # EXIF tag
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9])")
# Orientation -> (exchange rows and columns, then flip rows, flip columns).
_MOVES = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def orientation_in(exif: bytes, xmp: bytes) -> int:
    """Read the orientation in an EXIF block, else in an XMP packet; 1 (upright) if in neither."""
    value = None
    if exif:
        block = Image.Exif()
        with quiet_pillow, suppress(Exception):  # a broken EXIF block may raise anything
            block.load(exif)
            value = block.get(_ORIENTATION)
    if value is None and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[1])
    return value if isinstance(value, int) and value in _MOVES else 1


def read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image, 1 (upright) if missing or invalid."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block may raise anything
        return 1
    return value if isinstance(value, int) and value in _MOVES else 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation to ``[H, W, 3]`` pixels; lossless."""
    if orientation not in _MOVES:
        return pixels
    exchange, flip_rows, flip_columns = _MOVES[orientation]
    if exchange:
        pixels = pixels.transpose(1, 0, 2)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
