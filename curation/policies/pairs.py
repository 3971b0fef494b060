"""Pairs of contents with their similarity: the edges of the duplicate graph as three arrays."""

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
        """Select pairs by a mask."""
        return Pairs(self.i[mask], self.j[mask], self.similarity[mask])

    def both_ways(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Every pair as two directed edges: source, target, similarity."""
        return (
            np.concatenate([self.i, self.j]),
            np.concatenate([self.j, self.i]),
            np.concatenate([self.similarity, self.similarity]),
        )


def concat_pairs(parts: list[Pairs]) -> Pairs:
    """Concatenate the pairs of several partitions, sorted by ``(i, j)``."""
    if not parts:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    i, j, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return Pairs(i[order], j[order], similarity[order])
