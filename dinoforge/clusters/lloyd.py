"""k-means by Lloyd's iterations over blocks of rows that processes share.

Euclidean: of unit rows the nearest centroid is that of the largest cosine among centroids of one
length, and longer centroids (tighter clusters) reach further.

Shapes: n rows; d dimensions; K clusters.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from dinoforge.clusters.blocks import Blockwise, Points, concatenated
from dinoforge.clusters.nearest import Ids, NearestCentroid
from dinoforge.clusters.seeding import seed_centroids
from dinoforge.clusters.work import Arrays
from dinoforge.neighbors.products import Rows

__all__ = ["Clustering", "KMeans"]

_RANGE_BYTES = 1 << 26  # of the sums of a block that one process merges at once


@dataclass(frozen=True)
class Clustering:
    """Clusters none of which is empty, and the cluster of every row."""

    centroids: Rows  # float32 [K, d]
    labels: NDArray[np.int32]  # [n]
    distances: NDArray[np.float32]  # [n], to the own centroid
    num_empty: int  # clusters asked for that no row is nearest to
    num_reseeded: int  # times that a cluster lost all rows and started anew
    num_iterations: int
    objective: float  # sum of squared distances


@dataclass(frozen=True)
class KMeans(Blockwise):
    """Settings of k-means, and with whom its work is shared."""

    iterations: int = 50  # at most; it stops when nothing moves

    def fit(self, points: Points, num: int, name: str, sample: Ids | None = None) -> Clustering:
        """Cluster points into at most ``num`` clusters, fitted on a sample of them if one is given.

        ``name`` keys the draws and names the steps. A cluster that loses all rows starts anew at
        the row farthest from its centroid in the cluster with the largest part of the objective;
        one that is still empty at the end is left out.
        """
        every, points = points, points if sample is None else points.only(sample)
        num_wanted, num = min(num, len(every)), min(num, len(points))
        centroids = seed_centroids(points, num, name, self)
        reseeded = iterations = 0
        for number in range(self.iterations):
            before = centroids
            merged = self.work.reduce(
                f"{name}-{number:03d}",
                self.num_blocks(points),
                partial(self._sums, points, before),
                partial(_move, before),
                _ranges(before, self.num_blocks(points)),
            )
            state = concatenated(merged)
            centroids = state["centroids"]
            iterations, reseeded = number + 1, reseeded + _start_anew(points, state)
            if np.array_equal(centroids, before):
                break
        assigned = self.assign(every, centroids, f"{name}-assign")
        sizes = np.bincount(assigned.labels, minlength=len(centroids))
        renumbered = (np.cumsum(sizes > 0) - 1).astype(np.int32)
        return Clustering(
            centroids=centroids[sizes > 0],
            labels=renumbered[assigned.labels],
            distances=assigned.distances,
            num_empty=num_wanted - int(np.count_nonzero(sizes)),
            num_reseeded=reseeded,
            num_iterations=iterations,
            objective=assigned.objective,
        )

    def _sums(self, points: Points, centroids: Rows, index: int) -> Arrays:
        """Sum the rows of a block by cluster, float64; find the farthest row of each cluster."""
        num, dim = centroids.shape
        nearest = NearestCentroid(centroids, self.device)
        sums, counts = np.zeros((num, dim)), np.zeros(num, np.int64)
        inertia, far, far_at = np.zeros(num), np.full(num, -1.0, np.float32), np.full(num, -1)
        for first, rows in self.read_block(points, index):
            labels, squares = nearest.assign(rows)
            clusters, member = np.unique(labels, return_inverse=True)
            # A column per row: added to its cluster one after the other, without sorting them.
            columns = np.arange(len(rows) + 1)
            is_in = csc_array((np.ones(len(rows)), member, columns), (len(clusters), len(rows)))
            sums[clusters] += is_in @ rows
            counts[clusters] += np.bincount(member)
            inertia[clusters] += np.bincount(member, squares)
            before = far[clusters]
            farthest = before.copy()
            np.maximum.at(farthest, member, squares)
            # Of equally far rows the lowest stays: it is stored last.
            at = np.flatnonzero((squares == farthest[member]) & (squares > before[member]))[::-1]
            far[clusters] = farthest
            far_at[clusters[member[at]]] = first + at
        return {"sums": sums, "counts": counts, "inertia": inertia, "far": far, "far_at": far_at}


def _ranges(centroids: Rows, num_blocks: int) -> list[slice]:
    """Divide clusters into ranges that are merged by one process each, at most one per block."""
    num = min(num_blocks, -(-centroids.size * 8 // _RANGE_BYTES))
    cuts = np.linspace(0, len(centroids), num + 1).astype(int)
    return [slice(low, high) for low, high in itertools.pairwise(cuts.tolist())]


def _move(centroids: Rows, clusters: slice, blocks: Iterator[Arrays]) -> Arrays:
    """Add up the blocks in their order and move the centroids of a range of clusters."""
    total = next(blocks)
    for block in blocks:
        for name in ("sums", "counts", "inertia"):
            total[name] += block[name]
        is_farther = block["far"] > total["far"]
        for name in ("far", "far_at"):
            total[name] = np.where(is_farther, block[name], total[name])
    sums, counts, moved = total.pop("sums"), total["counts"], centroids[clusters].copy()
    has_rows = counts > 0
    moved[has_rows] = sums[has_rows] / counts[has_rows, None]
    return {"centroids": moved, **total}


def _start_anew(points: Points, state: Arrays) -> int:
    """Move the centroids of empty clusters to rows far from theirs; return how many."""
    empty = np.flatnonzero(state["counts"] == 0)
    donors = np.argsort(-state["inertia"], kind="stable")[: len(empty)]
    donors = donors[state["inertia"][donors] > 0]
    at = state["far_at"][donors]
    order = np.argsort(at)
    if len(at):
        state["centroids"][empty[: len(donors)][order]] = points.take(at[order])
    return len(donors)
