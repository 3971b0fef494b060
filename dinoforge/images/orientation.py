"""Turn pixels upright by the EXIF orientation (tag 0x0112, values 1..8)."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["read_orientation", "upright"]

_ORIENTATION = 0x0112
# Value -> (exchange rows and columns, then flip rows, flip columns).
_MOVES = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read_orientation(image: Image.Image) -> int:
    """Read the orientation of an opened image, 1 (upright) when absent or senseless.

    TIFF is always 1: Pillow turns its pixels and its size by itself.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block may raise anything; it decides nothing
        return 1
    return value if isinstance(value, int) and value in _MOVES else 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an orientation to ``[H, W, 3]`` pixels; lossless."""
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
