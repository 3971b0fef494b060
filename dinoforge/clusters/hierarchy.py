"""Levels of clusters: each level clusters the centroids of the one below (Vo et al. 2024).

Resampling makes the density of centroids more even: k-means is fitted again on the few rows
nearest to each centroid, of which dense regions have no more than sparse ones.

Shapes: n rows; d dimensions; K clusters of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.lloyd import Clustering, KMeans
from dinoforge.clusters.nearest import Ids
from dinoforge.clusters.work import Arrays, OwnWork
from dinoforge.errors import UsageError
from dinoforge.randomness import KeyedPermutation

__all__ = ["Hierarchy", "LevelPolicy", "check_levels", "cluster_levels", "nearest_rows"]


@dataclass(frozen=True)
class LevelPolicy:
    """How one level is clustered."""

    clusters: int  # fewer come out where clusters are empty
    # Times that it is fitted again on the rows nearest to its centroids, and how many of these per
    # centroid: a share of the mean size of a cluster (Vo et al.: about half).
    resampling: int = 0
    sample_share: float = 0.5
    # Clusters into which each cluster of a k-means with that many times fewer is divided.
    split: int = 1
    fit_rows: int = 0  # per cluster, drawn: k-means is fitted on these; 0: on all


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


def cluster_levels(points: Points, levels: Sequence[LevelPolicy], kmeans: KMeans) -> Hierarchy:
    """Cluster points, then the centroids, level by level, the finest first; at least one point."""
    result: list[Clustering] = []
    for number, policy in enumerate(levels, 1):
        level = _cluster(points, policy, kmeans, f"level{number}")
        result.append(level)
        points = Points(level.centroids.__getitem__, np.arange(len(level.centroids)))
    return Hierarchy(result)


def _cluster(points: Points, policy: LevelPolicy, kmeans: KMeans, name: str) -> Clustering:
    num = -(-policy.clusters // policy.split)
    drawn = policy.fit_rows * num
    sample = None
    if 0 < drawn < len(points):
        order = KeyedPermutation(len(points), kmeans.seed, f"{name}/fit")
        sample = np.sort(order[np.arange(drawn)])
    level = kmeans.fit(points, num, name, sample)
    size = round(policy.sample_share * len(points) / max(1, min(num, len(points))))
    if policy.fit_rows:
        size = min(size, policy.fit_rows)
    # With one row per centroid the sample is the centroids, and fitting it again changes little.
    for step in range(policy.resampling if size > 1 else 0):
        level = kmeans.fit(points, num, f"{name}-sample{step}", nearest_rows(level, size))
    return level if policy.split == 1 else _split(points, level, policy, kmeans, f"{name}-split")


def _split(
    points: Points, coarse: Clustering, policy: LevelPolicy, kmeans: KMeans, name: str
) -> Clustering:
    """Divide every cluster by a k-means of its own, as many at once as processes help.

    The result is not the nearest centroid of all, only of those of the own cluster: with K clusters
    a row is compared with K / split + split centroids instead of K.
    """

    def divide(cell: int, at: Ids) -> Arrays:
        own = replace(kmeans, work=OwnWork())
        rows = points.only(at)
        if len(at) <= kmeans.block_rows:
            rows = Points(rows.take(slice(None)).__getitem__, np.arange(len(at)))
        part = own.fit(rows, policy.split, f"{name}-{cell}")
        return {
            "at": at,
            "labels": part.labels,
            "distances": part.distances,
            "centroids": part.centroids,
            "counts": np.array([len(part.centroids)]),
            "facts": np.array([[part.num_reseeded, part.num_iterations, part.objective]]),
        }

    sizes = np.bincount(coarse.labels, minlength=len(coarse.centroids))
    divided = kmeans.for_each_cell(coarse.labels, sizes, name, divide)
    labels = np.empty(len(points), np.int32)
    distances = np.empty(len(points), np.float32)
    before = np.cumsum(divided["counts"]) - divided["counts"]
    labels[divided["at"]] = divided["labels"] + np.repeat(before, sizes)
    distances[divided["at"]] = divided["distances"]
    reseeded, iterations, objective = divided["facts"].T
    return Clustering(
        centroids=divided["centroids"],
        labels=labels,
        distances=distances,
        num_empty=policy.clusters - len(divided["centroids"]),
        num_reseeded=coarse.num_reseeded + int(reseeded.sum()),
        num_iterations=coarse.num_iterations + int(iterations.max()),
        objective=float(objective.sum()),
    )


def nearest_rows(level: Clustering, size: int) -> Ids:
    """Return the ``size`` rows nearest to each centroid, ties to the lowest; ascending."""
    order = np.lexsort((level.distances, level.labels))
    labels = level.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    return np.sort(order[rank < size])
