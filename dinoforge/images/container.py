"""A file reduced to what its pixels need, and what becomes of it.

Pillow reads text, ICC profiles and EXIF first and fails if one of them is broken or large. So they
are removed before Pillow gets the file, without being uncompressed; only the orientation is read.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Container", "DecodedImage", "Storage"]


@dataclass(frozen=True)
class Storage:
    """How values are stored, as far as Pillow leaves the conversion to its caller."""

    inverted: bool = False  # zero is white
    unsigned: bool = False  # unsigned 32-bit values, which Pillow reads as signed
    high: int | None = None  # largest value of the declared bit depth, if not 8 or 16 bits
    unit: float = 1.0  # factor by which Pillow multiplied the values of the file
    wide: bool = False  # more than 8 bits, of which Pillow may keep only 8
    gray_alpha: bool = False  # 16-bit gray and alpha, each in two channels of an RGBA image


@dataclass(frozen=True)
class Container:
    """The data for Pillow, and what was read from the rest of the file.

    ``orientation`` and ``num_frames`` are None if they are to be read through Pillow. ``sizes`` are
    widths and heights that decoders allocate without checking them: frames, tiles, canvases.
    """

    data: bytes
    orientation: int | None = None
    num_frames: int | None = None
    has_end: bool = True
    fault: str | None = None  # why the pixels cannot be trusted
    storage: Storage = Storage()
    is_opaque: bool = False  # the channel that Pillow takes for alpha is none
    sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class DecodedImage:
    """Upright RGB ``[H, W, 3]`` uint8, Pillow's name of the format, and notes (see `NOTES`)."""

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...]
