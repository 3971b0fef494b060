"""Pairs of contents with their similarity: the edges of the duplicate graph as three arrays.

A graph can have more pairs than fit into memory: policies read them block by block, several times.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.components import Labels

__all__ = ["Blocks", "Pairs", "concat_pairs", "distinct_pairs", "gather", "inside_components"]

_BATCH_PAIRS = 1 << 22  # pairs of whole components that are in memory at once: 80 MB


class Pairs(NamedTuple):
    """Columns of equal length: ``i < j`` (int64) and their similarity (float32)."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def above(self, threshold: float) -> "Pairs":
        """Pairs strictly above ``threshold``."""
        return self.where(self.is_above(threshold))

    def is_above(self, threshold: float) -> NDArray[np.bool_]:
        """Which pairs are strictly above ``threshold``.

        The comparison is in float64: a float32 similarity is never rounded against the
        threshold of the recipe.
        """
        return self.similarity.astype(np.float64) > threshold

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


# Every call reads all pairs anew, in blocks of any size and order.
Blocks = Callable[[], Iterable[Pairs]]


def gather(parts: Iterable[Pairs]) -> Pairs:
    """Concatenate pairs in the given order."""
    nothing = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    columns = zip(nothing, *parts, strict=True)
    return Pairs(*(np.concatenate(column) for column in columns))


def concat_pairs(parts: list[Pairs]) -> Pairs:
    """Concatenate the pairs of several partitions, sorted by ``(i, j)``."""
    i, j, similarity = gather(parts)
    order = np.lexsort((j, i))
    return Pairs(i[order], j[order], similarity[order])


def distinct_pairs(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort pairs ``[2, n]`` by ``(i, j)`` and keep each once."""
    ordered = pairs[:, np.lexsort(pairs[::-1])]
    is_new = np.ones(ordered.shape[1], np.bool_)
    is_new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return ordered[:, is_new]


def inside_components(
    blocks: Blocks, labels: Labels, wanted: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], Pairs]]:
    """Yield nodes of whole components and the pairs inside these, as many as fit into memory.

    ``labels`` and ``wanted`` have one row per node: its component, and whether to yield it. The
    pairs number the nodes by their position among the yielded ones. The pairs are read once to
    count them, and once per batch. Components without pairs are not yielded.
    """
    count = np.zeros(len(labels), np.int64)
    for block in blocks():
        same = labels[block.i] == labels[block.j]
        np.add.at(count, labels[block.i[same]], 1)
    batch = (np.cumsum(count) - count) // _BATCH_PAIRS  # by label
    of_node = np.where(wanted & (count[labels] > 0), batch[labels], -1)
    position = np.zeros(len(labels), np.int64)
    for number in np.unique(of_node[of_node >= 0]).tolist():
        chosen = of_node == number
        nodes = np.flatnonzero(chosen)
        position[nodes] = np.arange(len(nodes))
        inside = gather(
            block.where(chosen[block.i] & (labels[block.i] == labels[block.j]))
            for block in blocks()
        )
        yield nodes, Pairs(position[inside.i], position[inside.j], inside.similarity)
