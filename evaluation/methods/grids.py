"""Grids of patches and of pixels: sizes of frames, and nearest resampling of labels."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["frame_size", "resize_nearest"]


def frame_size(height: int, width: int, patch_size: int, *, short: int = 480) -> tuple[int, int]:
    """Return the size, height and width, at which a frame of a video enters a network.

    DINO's rule: ``short`` pixels on the short side, the long side rounded down to a multiple of 64.
    If patches do not divide 64 (DINOv2's 14), both sides are rounded down to whole patches: 476 for
    480. Report the size: scores depend on it.
    """
    step = 64 if 64 % patch_size == 0 else patch_size
    side = short // patch_size * patch_size
    longer = max(side * max(height, width) // min(height, width) // step * step, side)
    return (longer, side) if height > width else (side, longer)


def resize_nearest(labels_XY: NDArray, rows: int, columns: int) -> NDArray:
    """Resample ``[X, Y, ...]`` to ``rows`` x ``columns``: the pixel at each center, as Pillow."""
    row_of, column_of = map(_centers, labels_XY.shape, (rows, columns))
    return labels_XY[row_of[:, None], column_of]


def _centers(old: int, new: int) -> NDArray[np.int64]:
    # Summed as Pillow does: a center on the border of two pixels is rounded the same way.
    steps = np.full(new, old / new)
    steps[:1] /= 2
    return np.cumsum(steps).astype(int).clip(0, old - 1)
