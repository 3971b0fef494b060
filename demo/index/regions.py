"""A few vectors per image that stand for its patches, to propose images for an exact search."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.views.regions import unit

__all__ = ["choose_regions"]

_ITERATIONS = 5  # of k-means; patches hardly change clusters after these


def choose_regions(patches_XYD: NDArray[np.float16], count: int) -> NDArray[np.float16]:
    """Return the unit centers ``[count, D]`` of clusters of the patches of an image.

    Spherical k-means, started at the patches that are farthest from each other (Gonzalez 1985), so
    that a small object has a center of its own. A function of the patches alone; with fewer patches
    than ``count``, some rows repeat.
    """
    flat_ND = unit(patches_XYD).reshape(-1, patches_XYD.shape[2]).astype(np.float32)
    nearest = flat_ND @ unit(flat_ND.mean(axis=0)).astype(np.float32)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, flat_ND @ flat_ND[chosen[-1]])
    centers_CD = flat_ND[chosen]
    for _ in range(_ITERATIONS):
        labels = (flat_ND @ centers_CD.T).argmax(axis=1)
        sums_CD = (labels == np.arange(count)[:, None]).astype(np.float32) @ flat_ND
        is_used = np.linalg.norm(sums_CD, axis=1) > 0
        centers_CD[is_used] = unit(sums_CD[is_used])
    return centers_CD.astype(np.float16)
