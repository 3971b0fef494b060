"""Whitening of descriptors, learned on a named set of images.

Shapes: n images of that set, D dimensions, R reduced dimensions.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Vectors, unit_rows
from dinoforge.errors import UsageError

__all__ = ["Whitening", "WhiteningForm", "learn_whitening"]

WhiteningForm = Literal["uncentered", "centered"]

# Smallest eigenvalue that is divided by, relative to the largest.
_FLOOR = 1e-5


@dataclass(frozen=True)
class Whitening:
    """A learned projection; of descriptors from the same encoder and transform only."""

    mean: NDArray[np.float64]  # [D], subtracted first
    projection: NDArray[np.float64]  # [D, R]
    form: WhiteningForm
    learned_on: str  # name of the set of images; records name it
    num_images: int

    def apply(self, rows: NDArray[Any]) -> Vectors:
        """Return whitened unit rows, ``[n, R]`` float32; a row equal to the mean stays zero."""
        return unit_rows((np.asarray(rows, np.float64) - self.mean) @ self.projection)


def learn_whitening(
    rows_nD: NDArray[Any],
    *,
    learned_on: str,
    form: WhiteningForm = "centered",
    dim: int | None = None,
) -> Whitening:
    """Learn a whitening on the descriptors of a named set that is not the test set.

    Every direction is divided by the root of its eigenvalue, which counts as at least 1e-5 of the
    largest one.

    Parameters
    ----------
    rows_nD : ndarray
        Descriptors ``[n, D]``, prepared as those that will be whitened.
    learned_on : str
        Name of the set.
    form : str
        Whose eigenvectors: ``uncentered`` of the second moment about 0, although the mean is
        subtracted when it is applied (as DINO's published code does); ``centered`` of the
        covariance (PCA whitening; the Met benchmark).
    dim : int, optional
        Directions to keep, those of the largest eigenvalues; default: all D.

    Raises
    ------
    UsageError
        If the set has fewer than two images, or not enough for ``dim`` directions.
    """
    rows = np.asarray(rows_nD, np.float64)
    num, width = rows.shape
    keep = width if dim is None else dim
    # n images span n directions about 0, one less about their mean.
    span = min(width, num if form == "uncentered" else num - 1)
    if num < 2 or (dim is not None and not 1 <= dim <= span):
        raise UsageError(
            what=f"cannot learn a whitening to {keep} dimensions from {num} images of {width}",
            where=learned_on,
            do="name a larger set of images or fewer dimensions",
        )
    mean = rows.mean(axis=0)
    moved = rows if form == "uncentered" else rows - mean
    values, vectors = np.linalg.eigh(moved.T @ moved / num)
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    scales = np.maximum(values, _FLOOR * values[0]) ** -0.5
    return Whitening(mean, vectors * scales, form, learned_on, num)
