"""Which of several like images stays: exact copies, near-duplicates, one representative by rule.

Images with the same content (bytes, or decoded pixels) are one node; nodes hang together by pairs
above a threshold. The representative is the best image by data alone: role (as_is, seed, pool),
then more pixels, then more bytes, then the smaller id; never "the first seen". A kept image
needs no reason; a dropped one has a representative and the pair through which it hangs on it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs
from dinoforge.neighbors import connected_components

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
    """What was decided, one row a candidate; -1 and NaN where there is nothing to say."""

    kept: NDArray[np.bool_]
    reason: NDArray[np.int8]  # NONE, EXACT or NEAR; also for protected images that stay
    component: NDArray[np.int64]  # smallest image id of the connected component
    duplicate_of: NDArray[np.int64]  # image that stays in its place
    link: NDArray[np.int64]  # the other end of the pair through which it hangs
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
    """Choose who stays among images that are alike.

    Parameters
    ----------
    candidates : Candidates
        The images; others (undecodable, filtered) must not be in it.
    pairs : Pairs
        Between *contents* (not images); pairs of contents without candidates are ignored.
    threshold : float
        Pairs strictly above it are near-duplicates.
    rule : str
        ``component``: one image of each connected component stays. ``direct``: going from the
        best image to the worst, one is dropped only if it is above the threshold to one kept.
    max_component : int
        Components of more contents are split at higher thresholds; 0 never splits.

    Returns
    -------
    Groups
        One row a candidate, in the order of ``candidates``.
    """
    node_of, nodes = _nodes(candidates)
    inside = _between_nodes(candidates, pairs.above(threshold))
    labels, num_split = split_components(len(nodes), inside, threshold, max_component)
    inside = inside.where(labels[inside.i] == labels[inside.j])
    node_rank, node_protected = candidates.rank[nodes], candidates.protected[nodes]
    if rule == "component":
        keeper, link, similarity = _one_per_component(labels, node_rank, node_protected, inside)
    else:
        keeper, link, similarity = _keep_direct(node_rank, node_protected, inside)
    return _to_images(candidates, node_of, nodes, labels, (keeper, link, similarity), num_split)


def _nodes(candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Node number of each candidate, and the best candidate (row) of each node."""
    _, node_of = np.unique(candidates.content, return_inverse=True)
    node_of = node_of.astype(np.int64).reshape(-1)
    by_rank = np.argsort(candidates.rank, kind="stable")
    _, first = np.unique(node_of[by_rank], return_index=True)
    return node_of, by_rank[first].astype(np.int64)


def _between_nodes(candidates: Candidates, pairs: Pairs) -> Pairs:
    contents = np.unique(candidates.content)
    if not len(contents):
        return pairs.where(np.zeros(len(pairs.i), np.bool_))
    at_i, at_j = (np.searchsorted(contents, end) for end in (pairs.i, pairs.j))
    last = len(contents) - 1
    known = (contents[np.minimum(at_i, last)] == pairs.i) & (
        contents[np.minimum(at_j, last)] == pairs.j
    )
    # np.unique numbers contents in ascending order, as `_nodes` does
    return Pairs(at_i, at_j, pairs.similarity).where(known)


def split_components(
    num_nodes: int, pairs: Pairs, threshold: float, max_size: int
) -> tuple[NDArray[np.int64], int]:
    """Label connected components, splitting those of more than ``max_size`` nodes.

    A component that is too large is cut again with the threshold half-way to 1, at most 8
    times: what still hangs together then is a crowd of true copies.

    Returns
    -------
    labels, num_split : tuple
        Label of each node (its component's smallest node), and how many components were split.
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


_Links = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _one_per_component(
    labels: NDArray[np.int64],
    rank: NDArray[np.int64],
    protected: NDArray[np.bool_],
    pairs: Pairs,
) -> _Links:
    """Keep the best node of each component; link the others to it by fewest hops."""
    by_rank = np.argsort(rank, kind="stable")
    distinct, first = np.unique(labels[by_rank], return_index=True)
    best_of_label = by_rank[first]
    keeper = best_of_label[np.searchsorted(distinct, labels)]
    link, similarity = _links(keeper, rank, pairs)
    keeper = np.where(protected, np.arange(len(rank)), keeper)
    return keeper, link, similarity


def _links(
    keeper: NDArray[np.int64], rank: NDArray[np.int64], pairs: Pairs
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Neighbor of each node one hop nearer to its keeper: the most similar, then the best."""
    num = len(keeper)
    link = np.full(num, -1, np.int64)
    similarity = np.full(num, np.nan, np.float32)
    reached = keeper == np.arange(num)
    frontier = reached.copy()
    source, target, value = pairs.both_ways()
    while len(source):
        usable = frontier[source] & ~reached[target]
        from_, to, score = source[usable], target[usable], value[usable]
        if not len(to):
            break
        order = np.lexsort((rank[from_], -score, to))
        to, first = np.unique(to[order], return_index=True)
        link[to], similarity[to] = from_[order][first], score[order][first]
        reached[to] = True
        frontier = np.zeros(num, np.bool_)
        frontier[to] = True
        left = ~reached[target]
        source, target, value = source[left], target[left], value[left]
    return link, similarity


def _keep_direct(rank: NDArray[np.int64], protected: NDArray[np.bool_], pairs: Pairs) -> _Links:
    """Keep greedily from the best rank on, in rounds that decide many nodes at once.

    A node is kept when no undecided neighbor is better; that is the greedy result whatever the
    order in which independent nodes are looked at.
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
        both = open_[source] & open_[target]
        np.minimum.at(best_neighbor, target[both], rank[source[both]])
        kept |= open_ & (rank < best_neighbor)
    keeper = np.arange(num)
    link = np.full(num, -1, np.int64)
    similarity = np.full(num, np.nan, np.float32)
    usable = kept[source] & dropped[target]
    from_, to, score = source[usable], target[usable], value[usable]
    order = np.lexsort((rank[from_], -score, to))
    to, first = np.unique(to[order], return_index=True)
    keeper[to] = link[to] = from_[order][first]
    similarity[to] = score[order][first]
    return keeper, link, similarity


def _to_images(
    candidates: Candidates,
    node_of: NDArray[np.int64],
    nodes: NDArray[np.int64],
    labels: NDArray[np.int64],
    links: _Links,
    num_split: int,
) -> Groups:
    """Carry what was decided for contents to the images that have them."""
    keeper, link, similarity = links
    rows = np.arange(len(candidates.image_id))
    best = nodes[node_of]  # best image with the same content
    is_best = best == rows
    node_kept = keeper == np.arange(len(nodes))
    kept = (is_best & node_kept[node_of]) | candidates.protected
    ids = candidates.image_id
    has_link = is_best & (link[node_of] >= 0)
    link_row = nodes[np.maximum(link[node_of], 0)]
    keeper_row = nodes[keeper[node_of]]
    reason = np.where(is_best, np.where(has_link, NEAR, NONE), EXACT).astype(np.int8)
    linked = np.where(is_best, np.where(has_link, ids[link_row], -1), ids[best])
    value = np.where(is_best, similarity[node_of], np.float32(1.0)).astype(np.float32)
    smallest = _smallest_id(labels[node_of], ids)
    return Groups(
        kept=kept,
        reason=reason,
        component=smallest,
        duplicate_of=np.where(kept, -1, ids[keeper_row]),
        link=linked,
        similarity=value,
        num_split=num_split,
    )


def _smallest_id(group: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Smallest id of each row's group; ``ids`` are ascending."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return ids[first][inverse.reshape(-1)]
