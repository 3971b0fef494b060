"""k-means by Lloyd's iterations over blocks of rows that processes share.

Euclidean: of unit rows the nearest centroid is that of the largest cosine among centroids of one
length, and longer centroids (tighter clusters) reach further.

Shapes: n rows; d dimensions; K clusters.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.work import Arrays, OwnWork, Work
from dinoforge.neighbors.products import Rows, backend_for
from dinoforge.neighbors.search import top_k
from dinoforge.randomness import Draws, KeyedPermutation

__all__ = ["Clustering", "KMeans", "Points", "assign_rows", "seed_centroids"]

Ids = NDArray[np.int64]

_ROWS_AT_ONCE = 8192  # of a block: bounds memory and is part of the order of the sums
# Rows per cluster among which the first centroids are chosen, and the least number of rows.
_SEEDING_ROWS = 32
_LEAST_SEEDING_ROWS = 16_384
_MOST_AT_ONCE = 256  # clusters that k-means++ finds one after the other in all rows


@dataclass(frozen=True)
class Points:
    """Rows to cluster, read when needed: those at ``positions`` of what ``read`` reads."""

    read: Callable[[Ids], Rows]  # ascending positions -> finite float32 [n, d]
    positions: Ids  # ascending

    def __len__(self) -> int:
        """Return n."""
        return len(self.positions)

    def take(self, at: Ids | slice) -> Rows:
        """Read rows by ascending number, 0 to n - 1."""
        return self.read(self.positions[at])

    def only(self, at: Ids) -> "Points":
        """Return the points of ascending numbers."""
        return Points(self.read, self.positions[at])


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


def assign_rows(
    rows: Rows, centroids: Rows, *, device: str = "cpu"
) -> tuple[Ids, NDArray[np.float64]]:
    """Find the nearest centroid of every row, ties to the lowest, and the squared distances.

    ``|x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)``: the search for the largest inner product of rows
    with a 1 appended and centroids with ``-|c|^2 / 2``, which is exact on every device.
    """
    wide = centroids.astype(np.float64)
    halves = -0.5 * np.einsum("kd,kd->k", wide, wide)
    base = np.column_stack([centroids, halves.astype(np.float32)])
    asks = np.column_stack([rows, np.ones(len(rows), np.float32)])
    nearest = top_k(asks, base, k=1, backend=backend_for(device), device=device).ids[:, 0]
    apart = rows.astype(np.float64)
    apart -= wide[nearest]
    return nearest, np.einsum("nd,nd->n", apart, apart)


def seed_centroids(rows: Rows, num: int, seed: int, purpose: str) -> Rows:
    """Choose ``num`` rows as first centroids: k-means++ (Arthur and Vassilvitskii 2007).

    Greedy: of ``2 + ln K`` candidates the one that lowers the objective most. For many clusters in
    two levels, each group of rows getting clusters in proportion to its part of the objective,
    because K passes over all rows would cost more than the iterations.
    """
    if num <= _MOST_AT_ONCE:
        return rows[_plus_plus(rows, num, Draws(seed, purpose, 0))]
    groups = rows[_plus_plus(rows, round(math.sqrt(num)), Draws(seed, purpose, 0))]
    group, distances = assign_rows(rows, groups)
    sizes = np.bincount(group, minlength=len(groups))
    parts = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    weights: NDArray[np.float64] = np.bincount(group, distances, len(groups)).astype(np.float64)
    shares = _apportion(weights, sizes, num)
    chosen = [
        part[_plus_plus(rows[part], share, Draws(seed, purpose, 1 + number))]
        for number, (part, share) in enumerate(zip(parts, shares.tolist(), strict=True))
        if share
    ]
    return rows[np.concatenate(chosen)]


def _apportion(weights: NDArray[np.float64], room: Ids, total: int) -> Ids:
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
    """Return ``num`` row numbers; of fewer different rows some are repeated."""
    norms = np.einsum("nd,nd->n", rows, rows)
    num_candidates = 2 + int(math.log(num))
    chosen = [draws.integer(0, len(rows))]
    nearest = _squared_distances(rows, norms, np.array(chosen))[0]
    while len(chosen) < num:
        reached = np.cumsum(nearest, dtype=np.float64)
        at = [draws.uniform(0, reached[-1]) for _ in range(num_candidates)]
        candidates = np.minimum(np.searchsorted(reached, at, side="right"), len(rows) - 1)
        lowered = np.minimum(_squared_distances(rows, norms, candidates), nearest)
        best = int(lowered.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(candidates[best]))
        nearest = lowered[best]
    return np.array(chosen)


def _squared_distances(rows: Rows, norms: Rows, at: Ids) -> Rows:
    """Return squared distances of all rows to some of them, ``[len(at), n]``, never negative."""
    products = rows[at] @ rows.T
    distances: Rows = np.maximum(norms - 2 * products + norms[at, None], 0)
    distances[np.arange(len(at)), at] = 0
    return distances


@dataclass(frozen=True)
class KMeans:
    """Settings of k-means, and with whom its work is shared."""

    iterations: int = 50  # at most; it stops when nothing moves
    seed: int = 0
    block_rows: int = 1 << 20  # rows of one block: changes the last bits of the sums
    device: str = "cpu"
    work: Work = field(default_factory=OwnWork)

    def fit(self, points: Points, num: int, name: str, sample: Ids | None = None) -> Clustering:
        """Cluster points into at most ``num`` clusters, fitted on a sample of them if one is given.

        ``name`` keys the draws and names the steps. A cluster that loses all rows starts anew at
        the row farthest from its centroid in the cluster with the largest part of the objective;
        one that is still empty at the end is left out.
        """
        every, points = points, points if sample is None else points.only(sample)
        num_wanted, num = min(num, len(every)), min(num, len(points))
        state = self.work.gather(f"{name}-start", 1, lambda _: self._start(points, num, name), next)
        reseeded = iterations = 0
        for number in range(self.iterations):
            state = self.work.gather(
                f"{name}-{number:03d}",
                self._num_blocks(points),
                partial(self._sums, points, state["centroids"]),
                partial(self._move, points, state["centroids"]),
            )
            iterations, reseeded = number + 1, reseeded + int(state["reseeded"])
            if state["is_fixed"]:
                break
        centroids = state["centroids"]
        assigned = self.work.gather(
            f"{name}-assign",
            self._num_blocks(every),
            partial(self._assign, every, centroids),
            _concatenated,
        )
        sizes = np.bincount(assigned["labels"], minlength=len(centroids))
        renumbered = (np.cumsum(sizes > 0) - 1).astype(np.int32)
        return Clustering(
            centroids=centroids[sizes > 0],
            labels=renumbered[assigned["labels"]],
            distances=np.sqrt(assigned["distances"]).astype(np.float32),
            num_empty=num_wanted - int(np.count_nonzero(sizes)),
            num_reseeded=reseeded,
            num_iterations=iterations,
            objective=float(assigned["distances"].sum()),
        )

    def _assign(self, points: Points, centroids: Rows, index: int) -> Arrays:
        parts = [
            assign_rows(rows, centroids, device=self.device)
            for _, rows in self._read_block(points, index)
        ]
        labels, distances = map(np.concatenate, zip(*parts, strict=True))
        return {"labels": labels.astype(np.int32), "distances": distances}

    def _num_blocks(self, points: Points) -> int:
        return -(-len(points) // self.block_rows)

    def _read_block(self, points: Points, index: int) -> Iterator[tuple[int, Rows]]:
        """Yield the rows of a block in parts, each with the number of its first row."""
        stop = min((index + 1) * self.block_rows, len(points))
        for low in range(index * self.block_rows, stop, _ROWS_AT_ONCE):
            yield low, points.take(slice(low, min(low + _ROWS_AT_ONCE, stop)))

    def _start(self, points: Points, num: int, name: str) -> Arrays:
        most = max(_SEEDING_ROWS * num, _LEAST_SEEDING_ROWS)
        at = np.arange(len(points))
        if most < len(points):
            at = np.sort(KeyedPermutation(len(points), self.seed, f"{name}/rows")[np.arange(most)])
        return {"centroids": seed_centroids(points.take(at), num, self.seed, name)}

    def _sums(self, points: Points, centroids: Rows, index: int) -> Arrays:
        """Sum the rows of a block by cluster, float64; find the farthest row of each cluster."""
        num, dim = centroids.shape
        sums, counts = np.zeros((num, dim)), np.zeros(num, np.int64)
        inertia, far, far_at = np.zeros(num), np.full(num, -1.0), np.full(num, -1, np.int64)
        for first, rows in self._read_block(points, index):
            labels, distances = assign_rows(rows, centroids, device=self.device)
            # By cluster; in a cluster the farthest row first, of equal ones the lowest.
            order = np.lexsort((-distances, labels))
            clusters, starts = np.unique(labels[order], return_index=True)
            by_row = np.argsort(labels, kind="stable")
            sums[clusters] += np.add.reduceat(rows[by_row].astype(np.float64), starts)
            counts += np.bincount(labels, minlength=num)
            inertia += np.bincount(labels, distances, num)
            farthest = order[starts]
            is_farther = distances[farthest] > far[clusters]
            far[clusters[is_farther]] = distances[farthest[is_farther]]
            far_at[clusters[is_farther]] = first + farthest[is_farther]
        return {"sums": sums, "counts": counts, "inertia": inertia, "far": far, "far_at": far_at}

    def _move(self, points: Points, centroids: Rows, blocks: Iterator[Arrays]) -> Arrays:
        """Add up the blocks in their order and move the centroids."""
        total = next(blocks)
        for block in blocks:
            for name in ("sums", "counts", "inertia"):
                total[name] += block[name]
            is_farther = block["far"] > total["far"]
            for name in ("far", "far_at"):
                total[name] = np.where(is_farther, block[name], total[name])
        counts, moved = total["counts"], centroids.copy()
        has_rows = counts > 0
        moved[has_rows] = total["sums"][has_rows] / counts[has_rows, None]
        empty = np.flatnonzero(~has_rows)
        donors = np.argsort(-total["inertia"], kind="stable")[: len(empty)]
        donors = donors[total["inertia"][donors] > 0]
        at = total["far_at"][donors]
        order = np.argsort(at)
        moved[empty[: len(donors)][order]] = points.take(at[order])
        return {
            "centroids": moved,
            "reseeded": np.array(len(donors)),
            "is_fixed": np.array(np.array_equal(moved, centroids)),
        }


def _concatenated(blocks: Iterator[Arrays]) -> Arrays:
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
