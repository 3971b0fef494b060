"""Pairs of images with their similarity: the edges of the duplicate graph as three arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pairs", "concat_pairs"]


class Pairs(NamedTuple):
    """Columns of equal length: ``i < j`` (int64) and their similarity (float32)."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def above(self, threshold: float) -> "Pairs":
        """Pairs strictly above ``threshold``.

        The comparison is in float64: a float32 similarity is never rounded against the
        threshold of the recipe.
        """
        return self.where(self.similarity.astype(np.float64) > threshold)

    def where(self, mask: NDArray[np.bool_]) -> "Pairs":
        """Pairs under a mask."""
        return Pairs(self.i[mask], self.j[mask], self.similarity[mask])

    def both_ways(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Every pair as two directed edges: source, target, similarity."""
        return (
            np.concatenate([self.i, self.j]),
            np.concatenate([self.j, self.i]),
            np.concatenate([self.similarity, self.similarity]),
        )

    def in_order(self) -> "Pairs":
        """Sort by ``(i, j)``: whatever order the partitions wrote them in."""
        order = np.lexsort((self.j, self.i))
        return Pairs(self.i[order], self.j[order], self.similarity[order])


def concat_pairs(parts: list[Pairs]) -> Pairs:
    """Put pairs of several partitions together, sorted by ``(i, j)``."""
    if not parts:
        empty = np.empty(0, np.int64)
        return Pairs(empty, empty.copy(), np.empty(0, np.float32))
    i, j, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(i, j, similarity).in_order()
