"""Points to cluster, their division into blocks, and what is computed block by block.

Shapes: n rows; d dimensions; K clusters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.nearest import Ids, NearestCentroid
from dinoforge.clusters.work import Arrays, OwnWork, Work
from dinoforge.neighbors.products import Rows

__all__ = ["Assigned", "Blockwise", "Points", "cells_of", "concatenated"]

_ROWS_AT_ONCE = 8192  # of a block: bounds memory and is part of the order of the sums
_RUNS_PER_BLOCK = 4  # of cells: several, because cells of as many rows may differ in cost


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
class Assigned:
    """The cluster of every row."""

    labels: NDArray[np.int32]  # [n]
    distances: NDArray[np.float32]  # [n], to the own centroid
    objective: float  # sum of squared distances


@dataclass(frozen=True)
class Blockwise:
    """How rows are divided into blocks, and with whom the work on these is shared."""

    seed: int = 0
    block_rows: int = 1 << 20  # changes the last bits of sums
    device: str = "cpu"
    work: Work = field(default_factory=OwnWork)

    def num_blocks(self, points: Points) -> int:
        """Count the blocks of points."""
        return -(-len(points) // self.block_rows)

    def read_block(self, points: Points, index: int) -> Iterator[tuple[int, Rows]]:
        """Yield the rows of a block in parts, each with the number of its first row."""
        stop = min((index + 1) * self.block_rows, len(points))
        for low in range(index * self.block_rows, stop, _ROWS_AT_ONCE):
            yield low, points.take(slice(low, min(low + _ROWS_AT_ONCE, stop)))

    def assign(self, points: Points, centroids: Rows, step: str) -> Assigned:
        """Find the nearest centroid of every point."""

        def compute(index: int) -> Arrays:
            nearest = NearestCentroid(centroids, self.device)
            parts = [nearest.assign(rows) for _, rows in self.read_block(points, index)]
            labels, squares = map(np.concatenate, zip(*parts, strict=True))
            return {
                "labels": labels.astype(np.int32),
                "distances": np.sqrt(squares),
                "objective": squares.sum(dtype=np.float64, keepdims=True),
            }

        gathered = concatenated(self.work.gather(step, self.num_blocks(points), compute))
        return Assigned(
            gathered["labels"], gathered["distances"], float(gathered["objective"].sum())
        )

    def for_each_cell(
        self,
        labels: NDArray[np.int32],
        sizes: Ids,
        step: str,
        compute: Callable[[int, Ids], Arrays],
    ) -> Arrays:
        """Compute something of the rows of every cell, and concatenate it in the order of cells.

        ``labels`` are the cells of rows, ``sizes`` their numbers of rows. A block is a run of
        cells, with about as many rows as others; ``compute`` gets a cell and its rows, ascending.
        """
        num = _RUNS_PER_BLOCK * -(-len(labels) // self.block_rows)
        ends = np.cumsum(sizes)
        cuts = np.searchsorted(ends, np.arange(1, num) * (ends[-1] / num)) + 1
        runs = np.unique(np.r_[0, np.minimum(cuts, len(sizes)), len(sizes)])

        def compute_run(index: int) -> Arrays:
            cells = range(runs[index], runs[index + 1])
            return concatenated(compute(*cell) for cell in cells_of(labels, cells))

        return concatenated(self.work.gather(step, len(runs) - 1, compute_run))


def cells_of(labels: NDArray[np.int32], cells: range) -> Iterator[tuple[int, Ids]]:
    """Yield each of some cells with the numbers of its rows, ascending."""
    at = np.flatnonzero((labels >= cells.start) & (labels < cells.stop))
    at = at[np.argsort(labels[at], kind="stable")]
    starts = np.searchsorted(labels[at], np.arange(cells.start, cells.stop + 1))
    for cell, start, stop in zip(cells, starts[:-1], starts[1:], strict=True):
        yield cell, at[start:stop]


def concatenated(blocks: Iterator[dict[str, Any]]) -> Arrays:
    """Concatenate every array of blocks."""
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
