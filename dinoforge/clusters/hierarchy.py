"""Levels of clusters: each level clusters the centroids of the one below (Vo et al. 2024).

Resampling makes the density of centroids more even: k-means is fitted again on the few rows
nearest to each centroid, of which dense regions have no more than sparse ones.

Shapes: n rows; d dimensions; K clusters of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.lloyd import Clustering, Ids, KMeans, Points
from dinoforge.errors import UsageError

__all__ = ["Hierarchy", "check_levels", "cluster_levels", "nearest_rows"]


@dataclass(frozen=True)
class Hierarchy:
    """Clusters of every level, the finest first; ``labels`` of a level number those below it."""

    levels: list[Clustering]

    def roots(self) -> NDArray[np.int64]:
        """Return the cluster of the highest level of every row, ``[n]``."""
        labels = self.levels[0].labels.astype(np.int64)
        for level in self.levels[1:]:
            labels = level.labels[labels].astype(np.int64)
        return labels


def check_levels(levels: Sequence[int], num_rows: int, where: str) -> None:
    """Refuse more clusters at the first level than there are rows.

    Raises
    ------
    UsageError
        If so; ``where`` names what the levels are of.
    """
    if levels[0] > num_rows:
        raise UsageError(
            what=f"{levels[0]} clusters of {num_rows} images",
            where=where,
            do=f"give at most {num_rows} clusters",
        )


def cluster_levels(
    points: Points,
    levels: Sequence[int],
    kmeans: KMeans,
    *,
    resampling: Sequence[int],
    sample_share: float = 0.5,
) -> Hierarchy:
    """Cluster points, then the centroids, level by level.

    Parameters
    ----------
    points : Points
        At least one.
    levels : sequence of int
        Clusters of each level, the finest first. Fewer come out where clusters are empty.
    kmeans : KMeans
        Settings of every fit.
    resampling : sequence of int
        Times that each level is fitted again on the rows nearest to its centroids; the last one is
        that of all further levels.
    sample_share : float
        Rows of each centroid for that, as a share of the mean size of a cluster (Vo et al.: about
        half); with fewer than two rows, resampling changes little and is left out, as there.
    """
    result: list[Clustering] = []
    for number, num in enumerate(levels):
        name = f"level{number + 1}"
        level = kmeans.fit(points, num, name)
        size = round(sample_share * len(points) / max(1, min(num, len(points))))
        steps = resampling[min(number, len(resampling) - 1)] if size > 1 else 0
        for step in range(steps):
            level = kmeans.fit(points, num, f"{name}-sample{step}", nearest_rows(level, size))
        result.append(level)
        points = Points(level.centroids.__getitem__, np.arange(len(level.centroids)))
    return Hierarchy(result)


def nearest_rows(level: Clustering, size: int) -> Ids:
    """Return the ``size`` rows nearest to each centroid, ties to the lowest; ascending."""
    order = np.lexsort((level.distances, level.labels))
    labels = level.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    return np.sort(order[rank < size])
