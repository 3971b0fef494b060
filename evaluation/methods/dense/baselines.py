"""What dense scores are compared with: predictions without a network.

Majority class and median depth, for the whole image and per position, and features of color and
position. A trained head below the baseline per position is a failed fit, not a finding about
features.

Shapes: n images, H x W pixels, X x Y patches, K classes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.images import resize

__all__ = ["ClassesByPosition", "color_features", "median_depths", "position_features"]


class ClassesByPosition:
    """Counts of labels per pixel of training masks that share one size; memory ``H W K``."""

    def __init__(self, size: tuple[int, int], num_classes: int, ignore_index: int = 255) -> None:
        self._counts = np.zeros((*size, num_classes), np.int64)
        self._ignore_index = ignore_index

    def add(self, labels_HW: NDArray[Any]) -> None:
        """Count a mask."""
        rows, columns = np.nonzero(labels_HW != self._ignore_index)
        self._counts[rows, columns, labels_HW[rows, columns]] += 1

    @property
    def majority(self) -> int:
        """The most frequent class of all pixels; of equal ones the smallest."""
        return int(self._counts.sum(axis=(0, 1)).argmax())

    def majority_per_position(self) -> NDArray[np.int64]:
        """Return the most frequent class of every pixel; where none is labeled, `majority`."""
        return np.where(self._counts.any(axis=-1), self._counts.argmax(axis=-1), self.majority)


def median_depths(
    depths: Iterable[NDArray[Any]], *, min_depth: float, max_depth: float
) -> tuple[float, NDArray[np.float32]]:
    """Return the median depth of training maps of one size, and the median per pixel, ``[H, W]``.

    Over depths strictly between the limits; a pixel without any gets the median of all.
    """
    stack = np.stack(list(depths)).astype(np.float32)
    stack[(stack <= min_depth) | (stack >= max_depth)] = np.nan
    known = ~np.isnan(stack)
    overall = float(np.median(stack[known])) if known.any() else float("nan")
    empty = ~known.any(axis=0)
    stack[:, empty] = overall
    return overall, np.nanmedian(stack, axis=0).astype(np.float32)


def color_features(image: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the mean colors of 4 x 4 cells of every patch in [0, 1], ``[X, Y, 48]``.

    ``image`` is RGB ``[H, W, 3]`` of any size, divided into ``grid`` patches.
    """
    x, y = grid
    cells = resize(image, 4 * y, 4 * x, "box").astype(np.float32) / np.float32(255)
    return cells.reshape(x, 4, y, 4, 3).transpose(0, 2, 1, 3, 4).reshape(x, y, 48)


def position_features(grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the 9 monomials of degree 1 to 3 of the patch's place in [-1, 1], ``[X, Y, 9]``."""
    down, right = np.meshgrid(
        *((2 * np.arange(side) + 1) / side - 1 for side in grid), indexing="ij"
    )
    powers = [(i, j) for i in range(4) for j in range(4) if 1 <= i + j <= 3]
    return np.stack([down**i * right**j for i, j in powers], axis=-1).astype(np.float32)
