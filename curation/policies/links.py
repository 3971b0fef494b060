"""Which nodes of a graph of pairs are kept, and by which pair each of the others is linked to one.

Nodes are numbers; ``rank`` orders them, the smallest is the best.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs
from dinoforge.neighbors.components import Labels

__all__ = ["Links", "best_of_components", "keep_greedily", "link_to_keepers"]


class Links(NamedTuple):
    """Per node; -1 and NaN where there is no link."""

    keeper: NDArray[np.int64]  # the node that is kept in its place; itself if it is kept
    link: NDArray[np.int64]  # the other end of the pair that links it
    similarity: NDArray[np.float32]  # of that pair


def best_of_components(labels: Labels, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the best node of each node's component."""
    by_rank = np.argsort(rank, kind="stable")
    distinct, first = np.unique(labels[by_rank], return_index=True)
    best: NDArray[np.int64] = by_rank[first][np.searchsorted(distinct, labels)]
    return best


def link_to_keepers(keeper: NDArray[np.int64], rank: NDArray[np.int64], pairs: Pairs) -> Links:
    """Link every node to its keeper: a breadth-first forest from the kept nodes.

    Fewest pairs, then the best similarity, then the best rank. ``pairs`` are inside components and
    connect them.
    """
    num = len(rank)
    link, similarity = np.full(num, -1, np.int64), np.full(num, np.nan, np.float32)
    reached = keeper == np.arange(num)
    frontier = reached.copy()
    source, target, value = pairs.both_ways()
    while len(source):
        usable = frontier[source] & ~reached[target]
        from_, to, score = source[usable], target[usable], value[usable]
        if not len(to):
            break
        new, edge = _nearest_source(rank, from_, to, score)
        link[new], similarity[new] = from_[edge], score[edge]
        reached[new] = True
        frontier = np.zeros(num, np.bool_)
        frontier[new] = True
        left = ~reached[target]
        source, target, value = source[left], target[left], value[left]
    return Links(keeper, link, similarity)


def keep_greedily(rank: NDArray[np.int64], protected: NDArray[np.bool_], pairs: Pairs) -> Links:
    """Keep every node without a pair to a kept one, from the best rank on; and protected ones.

    In rounds that decide many nodes at once: a node is kept when no undecided neighbor is better,
    which is the greedy result, whatever the order in which independent nodes are decided. Every
    other node is linked to its most similar kept neighbor.
    """
    num = len(rank)
    source, target, value = pairs.both_ways()
    kept, dropped = protected.copy(), np.zeros(num, np.bool_)
    while True:
        dropped[target[kept[source]]] = True
        dropped &= ~protected
        open_ = ~(kept | dropped)
        if not open_.any():
            break
        best_neighbor = np.full(num, np.iinfo(np.int64).max, np.int64)
        undecided = open_[source] & open_[target]
        np.minimum.at(best_neighbor, target[undecided], rank[source[undecided]])
        kept |= open_ & (rank < best_neighbor)
    keeper = np.arange(num)
    link, similarity = np.full(num, -1, np.int64), np.full(num, np.nan, np.float32)
    usable = kept[source] & dropped[target]
    from_, to, score = source[usable], target[usable], value[usable]
    to, edge = _nearest_source(rank, from_, to, score)
    keeper[to] = link[to] = from_[edge]
    similarity[to] = score[edge]
    return Links(keeper, link, similarity)


def _nearest_source(
    rank: NDArray[np.int64],
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    similarity: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return distinct targets and the edge to the most similar (then best) source of each."""
    order = np.lexsort((rank[source], -similarity, target))
    targets, first = np.unique(target[order], return_index=True)
    return targets, order[first]
