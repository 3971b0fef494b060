"""How classes lie in the features of an encoder: their means, distances and dendrogram.

Shapes: n images, C classes, D dimensions.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform

__all__ = ["class_means", "cophenetic_correlation", "feature_distances", "link"]

Floats = NDArray[np.float64]

_ROWS_AT_ONCE = 16_384  # in float64: bounds memory, and is part of the order of the sums


def class_means(vectors_nD: NDArray[np.floating], classes_n: NDArray[np.integer]) -> Floats:
    """Average unit vectors by class, less the mean over classes: ``[C, D]``.

    Without the last step, all cosines are near 1 if the features have a large common part. Rows,
    which may be mapped from a file, are read in blocks; those of class -1 do not count.
    """
    num, dim = int(classes_n.max()) + 1, vectors_nD.shape[1]
    sums_CD = np.zeros((num, dim))
    for start in range(0, len(classes_n), _ROWS_AT_ONCE):
        block = classes_n[start : start + _ROWS_AT_ONCE]
        counted = np.flatnonzero(block >= 0)
        unit_bD = vectors_nD[start : start + len(block)][counted].astype(np.float64)
        unit_bD /= np.maximum(np.linalg.norm(unit_bD, axis=1, keepdims=True), 1e-12)
        places = (block[counted], np.arange(len(counted)))
        sums_CD += csr_array((np.ones(len(counted)), places), (num, len(counted))) @ unit_bD
    means_CD = sums_CD / np.bincount(classes_n[classes_n >= 0])[:, None]
    return means_CD - means_CD.mean(axis=0)


def feature_distances(means_CD: Floats) -> Floats:
    """Return 1 - cosine between the centered means of classes, ``[C, C]``."""
    unit_CD = means_CD / np.maximum(np.linalg.norm(means_CD, axis=1, keepdims=True), 1e-12)
    distances_CC = np.maximum(1.0 - unit_CD @ unit_CD.T, 0.0)
    np.fill_diagonal(distances_CC, 0.0)
    return (distances_CC + distances_CC.T) / 2


def link(distances_CC: Floats) -> Floats:
    """Cluster classes by average linkage; rows of SciPy's ``linkage``."""
    tree: Floats = linkage(squareform(distances_CC, checks=False), "average")
    return tree


def cophenetic_correlation(tree: Floats, distances_CC: Floats) -> float | None:
    """Correlate the distances along a dendrogram with those that it is of.

    Sokal and Rohlf 1962; None where it is undefined: all classes are equally far from one another.
    """
    pairs = squareform(distances_CC, checks=False)
    along = cophenet(tree)
    if min(np.ptp(pairs), np.ptp(along)) < 1e-12:
        return None
    return float(np.corrcoef(along, pairs)[0, 1])
