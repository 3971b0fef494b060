"""The first centroids of k-means: k-means++ in levels, which processes share.

Shapes: n rows; d dimensions; K clusters.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.blocks import Blockwise, Points, concatenated
from dinoforge.clusters.nearest import Ids
from dinoforge.clusters.work import Arrays
from dinoforge.neighbors.products import Rows
from dinoforge.randomness import Draws, KeyedPermutation

__all__ = ["seed_centroids"]

# Rows per cluster among which the first centroids are chosen, and the least number of rows.
_SEEDING_ROWS = 16  # 64 reach no lower objective (`benchmarks/LOG.md`)
_LEAST_SEEDING_ROWS = 4096
_MOST_AT_ONCE = 256  # clusters that k-means++ finds one after the other in all rows


def seed_centroids(points: Points, num: int, name: str, how: Blockwise) -> Rows:
    """Choose ``num`` rows as first centroids: k-means++ (Arthur and Vassilvitskii 2007).

    Greedy: of ``2 + ln K`` candidates the one that lowers the objective most. K clusters need K
    passes over all rows, which would cost more than the iterations and which nobody can share. So
    many clusters are chosen in two levels: sqrt(K) of them make cells, and of every cell alone
    come clusters in proportion to its part of the objective.
    """
    most = max(_SEEDING_ROWS * num, _LEAST_SEEDING_ROWS)
    if most < len(points):
        order = KeyedPermutation(len(points), how.seed, f"{name}/rows")
        points = points.only(np.sort(order[np.arange(most)]))

    def choose(rows: Rows, share: int, cell: int) -> Arrays:
        return {"centroids": rows[_plus_plus(rows, share, Draws(how.seed, name, cell))]}

    if num <= _MOST_AT_ONCE:
        every = how.work.gather(
            f"{name}-start", 1, lambda _: choose(points.take(slice(None)), num, 0)
        )
        return concatenated(every)["centroids"]
    first = seed_centroids(points, round(math.sqrt(num)), f"{name}-cells", how)
    cells = how.assign(points, first, f"{name}-cells-assign")
    sizes = np.bincount(cells.labels, minlength=len(first))
    squares = cells.distances.astype(np.float64) ** 2
    shares = _apportion(np.bincount(cells.labels, squares, len(first)), sizes, num)
    return how.for_each_cell(
        cells.labels,
        sizes,
        f"{name}-start",
        lambda cell, at: choose(points.take(at), int(shares[cell]), 1 + cell),
    )["centroids"]


def _apportion(weights: NDArray[Any], room: Ids, total: int) -> Ids:
    """Divide ``total`` in proportion to weights, none getting more than its room."""
    shares = np.zeros(len(room), np.int64)
    while (left := total - shares.sum()) > 0:
        open_ = np.where(shares < room, weights, 0.0)
        if not open_.sum():
            open_ = (room - shares).astype(np.float64)
        ends = np.rint(np.cumsum(open_) * (left / open_.sum())).astype(np.int64)
        shares = np.minimum(shares + np.diff(np.r_[0, ends]), room)
    return shares


def _plus_plus(rows: Rows, num: int, draws: Draws) -> Ids:
    """Return ``num`` row numbers; of fewer different rows some are repeated.

    In float64: a choice then depends on the order of a sum, and so on threads, next to never.
    """
    if not num:
        return np.empty(0, np.int64)
    columns = rows.T.astype(np.float64, order="C")
    norms = np.einsum("dn,dn->n", columns, columns)
    num_candidates = 2 + int(math.log(num))
    chosen = [draws.integer(0, len(rows))]
    nearest = _squared_distances(columns, norms, np.array(chosen))[0]
    while len(chosen) < num:
        reached = np.cumsum(nearest)
        at = [draws.uniform(0, reached[-1]) for _ in range(num_candidates)]
        candidates = np.minimum(np.searchsorted(reached, at, side="right"), len(rows) - 1)
        lowered = np.minimum(_squared_distances(columns, norms, candidates), nearest)
        best = int(lowered.sum(axis=1).argmin())
        chosen.append(int(candidates[best]))
        nearest = lowered[best]
    return np.array(chosen)


def _squared_distances(
    columns: NDArray[np.float64], norms: NDArray[np.float64], at: Ids
) -> NDArray[np.float64]:
    """Return squared distances of all rows to some of them, ``[len(at), n]``, never negative.

    ``columns`` are the rows as ``[d, n]``: half the time of the product with ``[n, d]``.
    """
    distances = columns[:, at].T @ columns
    distances *= -2
    distances += norms
    distances += norms[at, None]
    np.maximum(distances, 0, out=distances)
    distances[np.arange(len(at)), at] = 0
    return distances
