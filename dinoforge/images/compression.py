"""How much a file has lost by compression, from its header: to prefer the least recompressed copy.

Saving a picture again coarsens what its last quantization left, and a copy can be saved at a
higher quality than its original; so this compares files; it does not reconstruct their history.
"""

import math
from functools import lru_cache

__all__ = ["compression_quality"]

_LOSSLESS = frozenset({"PNG", "BMP", "DIB", "PPM", "QOI", "SGI", "SUN", "TGA", "PCX"})

# ITU-T T.81, table K.1: quantization of luminance at quality 50, in zigzag order.
_STANDARD = (
    *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
    *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
    *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
    *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
)
_TABLES, _BARE = 0xDB, frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def compression_quality(data: bytes, image_format: str) -> float:
    """Estimate the quality of a file.

    A JPEG has the quality, 1 to 100 (not rounded), at which libjpeg makes a luminance table with
    the same mean ratio to the standard one (table 0; ITU-T T.81 annex K.1, scaled as in libjpeg's
    ``jpeg_quality_scaling``). Files of libjpeg have their own quality within 1 from 25 to 99:
    its tables are rounded, and clipped at 255.

    Parameters
    ----------
    data : bytes
        The file.
    image_format : str
        As Pillow names it.

    Returns
    -------
    float
        Infinity if the format keeps every pixel (PNG, BMP, lossless WebP, ...); NaN if the loss is
        unknown: lossy formats without such tables, formats that may be either.
    """
    if image_format in _LOSSLESS or (image_format == "WEBP" and b"VP8L" in data[12:64]):
        return math.inf
    return _jpeg_quality(data) if image_format in {"JPEG", "MPO"} else math.nan


def _jpeg_quality(data: bytes) -> float:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in {_START_OF_SCAN, _END_OF_IMAGE}:
            break
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _TABLES and (quality := _quality_of_tables(data[at + 4 : stop])) is not None:
            return quality
        at = stop
    return math.nan


@lru_cache(maxsize=256)  # the files of one source share a few tables
def _quality_of_tables(segment: bytes) -> float | None:
    """Return the quality by table 0 of a segment of quantization tables; None without one."""
    while segment:
        wide, number = divmod(segment[0], 16)
        size = 2 if wide else 1
        values, segment = segment[1 : 1 + 64 * size], segment[1 + 64 * size :]
        if number == 0 and len(values) == 64 * size:
            steps = (int.from_bytes(values[k : k + size], "big") for k in range(0, 64 * size, size))
            pairs = zip(steps, _STANDARD, strict=True)
            scale = 100 * sum(value / standard for value, standard in pairs) / len(_STANDARD)
            quality = 5000 / scale if scale > 100 else (200 - scale) / 2
            return min(max(quality, 1.0), 100.0)
    return None
