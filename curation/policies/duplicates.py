"""Which of several duplicates is kept: exact copies, near-duplicates, one representative by rule.

Images with the same decoded pixels (content) are one node; nodes are connected by pairs above a
threshold. The representative is the best image by data alone: role (as_is, seed, pool), then more
pixels, then more bytes, then the smaller id; never "the first seen". A dropped image has a
representative and the pair that links it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs
from dinoforge.neighbors.components import Labels, connected_components

__all__ = [
    "EXACT",
    "NEAR",
    "NONE",
    "Candidates",
    "Groups",
    "best_first",
    "group_duplicates",
    "split_components",
]

NONE, EXACT, NEAR = 0, 1, 2

_SPLIT_ROUNDS = 8  # each halves the distance of the threshold to 1


@dataclass(frozen=True)
class Candidates:
    """Images that take part, as columns sorted by ``image_id``."""

    image_id: NDArray[np.int64]
    content: NDArray[np.int64]  # equal for images with the same pixels
    rank: NDArray[np.int64]  # 0 is the best image; see `best_first`
    protected: NDArray[np.bool_]  # never dropped (as_is, seeds)


@dataclass(frozen=True)
class Groups:
    """Result, one row per candidate; -1 and NaN where it does not apply."""

    kept: NDArray[np.bool_]
    reason: NDArray[np.int8]  # NONE, EXACT or NEAR; also for protected images that are kept
    component: NDArray[np.int64]  # smallest image id of the connected component
    duplicate_of: NDArray[np.int64]  # image that is kept in its place
    link: NDArray[np.int64]  # the other end of the pair that links it
    similarity: NDArray[np.float32]  # of that pair; 1 for the same content
    num_split: int  # components that were split because they were too large


def best_first(
    role: NDArray[np.int64],
    pixels: NDArray[np.int64],
    num_bytes: NDArray[np.int64],
    image_id: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rank images, 0 the best: smaller role number, more pixels, more bytes, smaller id."""
    order = np.lexsort((image_id, -num_bytes, -pixels, role))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def group_duplicates(
    candidates: Candidates,
    pairs: Pairs,
    *,
    threshold: float,
    rule: Literal["component", "direct"] = "component",
    max_component: int = 0,
) -> Groups:
    """Choose which of several duplicates to keep; rows are in the order of ``candidates``.

    Pairs are between *contents*, not images; those of contents without candidates are ignored.
    Strictly above ``threshold``, they are near-duplicates. Under the rule ``component``, one image
    of each connected component is kept. Under ``direct``, going from the best image to the worst,
    one is dropped only if it is above the threshold to a kept one. Components of more than
    ``max_component`` contents are split at higher thresholds; 0 never splits.
    """
    contents, node_of = np.unique(candidates.content, return_inverse=True)
    node_of = node_of.astype(np.int64).reshape(-1)
    by_rank = np.argsort(candidates.rank, kind="stable")
    _, first = np.unique(node_of[by_rank], return_index=True)
    best = by_rank[first].astype(np.int64)  # row of the best candidate of each node
    inside = _between_nodes(contents, pairs.above(threshold))
    labels, num_split = split_components(len(best), inside, threshold, max_component)
    inside = inside.where(labels[inside.i] == labels[inside.j])
    choose = _one_per_component if rule == "component" else _keep_direct
    links = choose(labels, candidates.rank[best], candidates.protected[best], inside)
    return _to_images(candidates, node_of, best, labels, links, num_split)


def _between_nodes(contents: NDArray[np.int64], pairs: Pairs) -> Pairs:
    """Replace contents by node numbers; drop pairs of contents that are no node."""
    if not len(contents):
        return pairs.where(np.zeros(len(pairs.i), np.bool_))
    i, j = (np.searchsorted(contents, end).clip(max=len(contents) - 1) for end in pairs[:2])
    is_inside = (contents[i] == pairs.i) & (contents[j] == pairs.j)
    return Pairs(i, j, pairs.similarity).where(is_inside)


def split_components(
    num_nodes: int, pairs: Pairs, threshold: float, max_size: int
) -> tuple[Labels, int]:
    """Label connected components, splitting those of more than ``max_size`` nodes.

    A component that is too large is split again with the threshold halfway to 1, at most 8 times:
    what is still connected then are true copies. Returns the label of each node (the smallest node
    of its component), and how many components were split.
    """
    labels = connected_components(num_nodes, pairs.i, pairs.j)
    num_split = 0
    for turn in range(1, _SPLIT_ROUNDS + 1 if max_size else 1):
        sizes = np.bincount(labels, minlength=num_nodes)
        too_large = sizes[labels] > max_size
        if not too_large.any():
            break
        num_split += int(np.count_nonzero(sizes > max_size)) if turn == 1 else 0
        stricter = 1.0 - (1.0 - threshold) / 2**turn
        inside = pairs.where(too_large[pairs.i] & (labels[pairs.i] == labels[pairs.j]))
        inside = inside.above(stricter)
        finer = connected_components(num_nodes, inside.i, inside.j)
        labels = np.where(too_large, finer, labels)
    return labels, num_split


# Per node: the node that is kept in its place, the node that it is linked to (-1), the similarity.
_Links = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


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


def _one_per_component(
    labels: Labels, rank: NDArray[np.int64], protected: NDArray[np.bool_], pairs: Pairs
) -> _Links:
    """Keep the best node of each component.

    Links are a breadth-first forest from the kept nodes: fewest hops, then the best similarity.
    """
    num = len(rank)
    by_rank = np.argsort(rank, kind="stable")
    distinct, first = np.unique(labels[by_rank], return_index=True)
    keeper = by_rank[first][np.searchsorted(distinct, labels)]
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
    return np.where(protected, np.arange(num), keeper), link, similarity


def _keep_direct(
    labels: Labels,  # noqa: ARG001 - the same call for both rules
    rank: NDArray[np.int64],
    protected: NDArray[np.bool_],
    pairs: Pairs,
) -> _Links:
    """Keep greedily from the best rank on, in rounds that decide many nodes at once.

    A node is kept when no undecided neighbor is better: the greedy result, whatever the order in
    which independent nodes are decided.
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
    return keeper, link, similarity


def _to_images(
    candidates: Candidates,
    node_of: NDArray[np.int64],
    best: NDArray[np.int64],
    labels: Labels,
    links: _Links,
    num_split: int,
) -> Groups:
    """Carry the decisions about contents over to the images that have them."""
    keeper, link, similarity = links
    ids = candidates.image_id
    best_row = best[node_of]  # best image with the same content
    is_best = best_row == np.arange(len(ids))
    kept = (is_best & (keeper == np.arange(len(best)))[node_of]) | candidates.protected
    has_link = is_best & (link[node_of] >= 0)
    linked_row = best[np.maximum(link[node_of], 0)]
    _, first, component = np.unique(labels[node_of], return_index=True, return_inverse=True)
    return Groups(
        kept=kept,
        reason=np.where(is_best, np.where(has_link, NEAR, NONE), EXACT).astype(np.int8),
        component=ids[first][component.reshape(-1)],  # ids ascend: the first is the smallest
        duplicate_of=np.where(kept, -1, ids[best[keeper[node_of]]]),
        link=np.where(is_best, np.where(has_link, ids[linked_row], -1), ids[best_row]),
        similarity=np.where(is_best, similarity[node_of], np.float32(1)).astype(np.float32),
        num_split=num_split,
    )
