"""Regions of an image as queries: one vector for what was selected, and where else it is seen."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Features", "object_vector", "region_vector", "similarity_map", "unit"]

Features = NDArray[np.floating[Any]]  # [X, Y, D]

# Of what is subtracted; Rocchio's feedback (1971) gives it less weight than what is added.
_SUBTRACTED = 0.5


class Box(NamedTuple):
    """A rectangle of patches; the last row and column belong to it."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, features_XYD: Features) -> NDArray[np.float64]:
        """Return its features ``[n, D]``.

        Raises
        ------
        ValueError
            If it reaches beyond the image, or contains no patch.
        """
        rows, columns = features_XYD.shape[:2]
        if not (0 <= self.top <= self.bottom < rows and 0 <= self.left <= self.right < columns):
            raise ValueError(f"box {tuple(self)} on {rows} x {columns} patches")
        inside = features_XYD[self.top : self.bottom + 1, self.left : self.right + 1]
        return inside.reshape(-1, features_XYD.shape[2]).astype(np.float64)


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Divide vectors ``[..., D]`` by their lengths; zeros stay zeros."""
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)


def region_vector(
    features_XYD: Features, boxes: Sequence[Box], *, without: Sequence[Box] = ()
) -> NDArray[np.float64]:
    """Describe a selection by one unit vector ``[D]``.

    The mean of the features as they are, over all patches of ``boxes``, then divided by its length;
    half of the same of ``without`` is subtracted.

    Raises
    ------
    ValueError
        If there is no box, or one reaches beyond the image.
    """
    if not boxes:
        raise ValueError("no box")
    vector = unit(np.concatenate([box.of(features_XYD) for box in boxes]).mean(axis=0))
    if without:
        other = unit(np.concatenate([box.of(features_XYD) for box in without]).mean(axis=0))
        vector = unit(vector - _SUBTRACTED * other)
    return vector


def object_vector(features_XYD: Features, boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Describe what a selection has and the rest of its image does not, by one unit vector ``[D]``.

    The mean over ``boxes`` less the mean over all other patches, each divided by its length first.
    A box around an object has background in its corners; on frames of DAVIS the best patch of a hit
    is in the object several times as often as by `region_vector` (`benchmarks/demo_patches.py`).
    Of a selection of the whole image it is the `region_vector`.

    Raises
    ------
    ValueError
        As `region_vector`.
    """
    vector = region_vector(features_XYD, boxes)
    is_other = np.ones(features_XYD.shape[:2], bool)
    for box in boxes:
        is_other[box.top : box.bottom + 1, box.left : box.right + 1] = False
    if not is_other.any():
        return vector
    others_nD = features_XYD[is_other].astype(np.float64)
    return unit(vector - unit(others_nD.mean(axis=0)))


def similarity_map(features_XYD: Features, vector: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of every patch to a vector, ``[X, Y]``."""
    return unit(features_XYD) @ unit(vector)
