"""Components of the duplicate graph, and what becomes of those that chains have made too large."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.links import keep_greedily
from dinoforge.curation.policies.pairs import Blocks, Pairs, gather, inside_components
from dinoforge.neighbors.components import Labels, connected_components, spanning_forest

__all__ = ["StrongestForest", "split_by_threshold", "split_into_stars"]

_SPLIT_ROUNDS = 8  # each halves the distance of the threshold to 1
_WAITING_PAIRS = 1 << 20  # pairs that are merged into a forest at once, if there are fewer nodes


class StrongestForest:
    """The strongest pairs that connect a graph, kept while its pairs are read block by block.

    A maximum spanning forest, of pairs sorted by similarity (descending), then ``(i, j)``: its
    components above any threshold are those of all pairs. It depends on the set of pairs alone.
    Memory: one pair per node and 2^20 pairs, or one per four nodes, that wait for their turn.
    """

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes, self._forest = num_nodes, gather([])
        self._waiting: list[Pairs] = []
        self._num_waiting = 0

    def add(self, pairs: Pairs) -> None:
        """Add pairs of nodes ``0 .. num_nodes - 1``."""
        self._waiting.append(pairs)
        self._num_waiting += len(pairs.i)
        if self._num_waiting >= max(_WAITING_PAIRS, self._num_nodes // 4):
            self._merge()

    def pairs(self) -> Pairs:
        """Return the forest, its strongest pair first."""
        self._merge()
        return self._forest

    def _merge(self) -> None:
        i, j, similarity = gather([self._forest, *self._waiting])
        order = np.lexsort((j, i, -similarity))
        ordered = Pairs(i[order], j[order], similarity[order])
        self._forest = ordered.where(spanning_forest(self._num_nodes, ordered.i, ordered.j))
        self._waiting, self._num_waiting = [], 0


def split_by_threshold(
    num_nodes: int, forest: Pairs, threshold: float, max_size: int
) -> tuple[Labels, int]:
    """Label connected components, splitting those of more than ``max_size`` nodes; 0: none.

    A component that is too large is split again with the threshold halfway to 1, at most 8 times:
    what is still connected then are true copies. ``forest`` is a `StrongestForest` of the pairs
    above ``threshold``. Returns the label of each node (the smallest node of its component), and
    how many components were split.
    """
    labels = connected_components(num_nodes, forest.i, forest.j)
    num_split = 0
    for turn in range(1, _SPLIT_ROUNDS + 1 if max_size else 1):
        sizes = np.bincount(labels, minlength=num_nodes)
        too_large = sizes[labels] > max_size
        if not too_large.any():
            break
        num_split += int(np.count_nonzero(sizes > max_size)) if turn == 1 else 0
        stricter = 1.0 - (1.0 - threshold) / 2**turn
        inside = forest.where(too_large[forest.i] & (labels[forest.i] == labels[forest.j]))
        inside = inside.above(stricter)
        finer = connected_components(num_nodes, inside.i, inside.j)
        labels = np.where(too_large, finer, labels)
    return labels, num_split


def split_into_stars(
    forest: Pairs, blocks: Blocks, rank: NDArray[np.int64], max_size: int
) -> tuple[Labels, Pairs, int]:
    """Label connected components, cutting those of more than ``max_size`` nodes into stars.

    Every node of a star has a pair to its center, so nothing is chained. Centers are chosen
    greedily, as in star clustering (Aslam, Pelekhov and Rus 2004): of a component, the node with
    the most pairs (its medoid: then the largest sum of similarities, then the best rank); then the
    next such node without a pair to a center, and so on, pairs being counted once in the whole
    component. Every other node joins its most similar center.

    Parameters
    ----------
    forest : Pairs
        `StrongestForest` of the pairs.
    blocks : Blocks
        The pairs; only those of components that are too large are in memory, at least one
        component at a time.
    rank : ndarray
        int64, one per node; 0 is the best.
    max_size : int
        Components of more nodes are cut; 0: none.

    Returns
    -------
    tuple
        Labels as of `split_by_threshold`; pairs that connect each component or star; how many
        components were cut.
    """
    num = len(rank)
    whole = connected_components(num, forest.i, forest.j)
    labels = whole.copy()
    sizes = np.bincount(whole, minlength=num)
    too_large = sizes[whole] > max_size if max_size else np.zeros(num, np.bool_)
    connecting = [forest.where(~too_large[forest.i])]
    if too_large.any():
        smallest = np.arange(num)
        for nodes, pairs in inside_components(blocks, whole, too_large):
            centrality = _most_central_first(rank[nodes], pairs)
            star = keep_greedily(centrality, np.zeros(len(nodes), np.bool_), pairs)
            center = nodes[star.keeper]
            np.minimum.at(smallest, center, nodes)
            labels[nodes] = smallest[center]
            linked = star.link >= 0
            a, b = nodes[linked], nodes[star.link[linked]]
            similarity = star.similarity[linked]
            connecting.append(Pairs(np.minimum(a, b), np.maximum(a, b), similarity))
    return labels, gather(connecting), int(np.count_nonzero(sizes > max_size)) if max_size else 0


def _most_central_first(rank: NDArray[np.int64], pairs: Pairs) -> NDArray[np.int64]:
    """Rank nodes by their number of pairs, the sum of similarities, their own rank."""
    source, _, similarity = pairs.both_ways()
    degree = np.bincount(source, minlength=len(rank))
    # Integers: the sum does not depend on the order of the pairs.
    total = np.zeros(len(rank), np.int64)
    np.add.at(total, source, np.rint(similarity.astype(np.float64) * 2**30).astype(np.int64))
    order = np.lexsort((rank, -total, -degree))
    place = np.empty(len(rank), np.int64)
    place[order] = np.arange(len(rank))
    return place
