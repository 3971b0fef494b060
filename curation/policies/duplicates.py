"""Which of several duplicates is kept: exact copies, near-duplicates, one representative by rule.

Images with the same decoded pixels (content) are one node; nodes are connected by pairs above a
threshold. The representative is the best image by data alone: role (as_is, seed, pool), then what
the recipe prefers, then more pixels, more bytes, the smaller id; never "the first seen". A dropped
image has a representative and the pair that links it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.links import (
    Links,
    best_of_components,
    keep_greedily,
    link_to_keepers,
)
from dinoforge.curation.policies.pairs import Blocks, Pairs, gather, inside_components
from dinoforge.curation.policies.splitting import (
    StrongestForest,
    split_by_threshold,
    split_into_stars,
)
from dinoforge.neighbors.components import Labels

__all__ = ["EXACT", "NEAR", "NONE", "Candidates", "Groups", "best_first", "group_duplicates"]

NONE, EXACT, NEAR = 0, 1, 2


@dataclass(frozen=True)
class Candidates:
    """Images that take part, as columns sorted by ``image_id``."""

    image_id: NDArray[np.int64]
    content: NDArray[np.int64]  # equal for images with the same pixels
    rank: NDArray[np.int64]  # 0 is the best image; see `best_first`
    protected: NDArray[np.bool_]  # never dropped (as_is, seeds)
    # If given, the best image of every source of a component is kept, too.
    source: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> "Candidates":
        """Select images by row, ascending."""
        return Candidates(
            image_id=self.image_id[rows],
            content=self.content[rows],
            rank=self.rank[rows],
            protected=self.protected[rows],
            source=None if self.source is None else self.source[rows],
        )


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
    *,
    criteria: Sequence[NDArray[np.float64]] = (),
) -> NDArray[np.int64]:
    """Rank images, 0 the best: smaller role number, then ``criteria``, the first of them first.

    A criterion is a number per image, the larger the better; NaN is the worst. Ties are settled by
    more pixels, more bytes, the smaller id.
    """
    keys = (role, *(-values for values in criteria), -pixels, -num_bytes, image_id)
    order = np.lexsort(keys[::-1])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def group_duplicates(
    candidates: Candidates,
    blocks: Blocks,
    *,
    threshold: float,
    rule: Literal["component", "direct"] = "component",
    max_component: int = 0,
    on_large: Literal["split", "medoid"] = "split",
) -> Groups:
    """Choose which of several duplicates to keep; rows are in the order of ``candidates``.

    Pairs are between *contents*, not images; those of contents without candidates are ignored.
    Strictly above ``threshold``, they are near-duplicates. Under the rule ``component``, one image
    of each connected component is kept. Under ``direct``, going from the best image to the worst,
    one is dropped only if it is above the threshold to a kept one of its component. Components of
    more than ``max_component`` contents (0: none) are split at higher thresholds, or into stars
    around medoids, see `splitting`.

    The pairs are read block by block: twice for ``component`` with ``split``; the others hold
    the pairs of some whole components, see `inside_components`. The order of the pairs and the
    blocks do not change the result.
    """
    contents, node_of = np.unique(candidates.content, return_inverse=True)
    node_of = node_of.astype(np.int64).reshape(-1)
    by_rank = np.argsort(candidates.rank, kind="stable")
    _, first = np.unique(node_of[by_rank], return_index=True)
    best = by_rank[first].astype(np.int64)  # row of the best candidate of each node

    node_of_content = np.full(contents.max(initial=0) + 1, -1, np.int32)
    assert len(contents) < 2**31, "more contents than are grouped at once"
    node_of_content[contents] = np.arange(len(contents))

    def near() -> Iterator[Pairs]:
        return (_between_nodes(node_of_content, block.above(threshold)) for block in blocks())

    forest = StrongestForest(len(best))
    for block in near():
        forest.add(block)
    joined, rank = forest.pairs(), candidates.rank[best]
    if on_large == "split":
        labels, num_split = split_by_threshold(len(best), joined, threshold, max_component)
        joined = joined.where(labels[joined.i] == labels[joined.j])
    else:
        labels, joined, num_split = split_into_stars(joined, near, rank, max_component)
    choose = _one_per_component if rule == "component" else _keep_direct
    links = choose(labels, rank, candidates.protected[best], joined, near)
    return _to_images(candidates, node_of, best, labels, links, num_split)


def _between_nodes(node: NDArray[np.int64], pairs: Pairs) -> Pairs:
    """Replace contents by their nodes (-1: none); drop pairs of contents that are no node."""
    i, j = (np.where(end < len(node), node.take(end, mode="clip"), -1) for end in pairs[:2])
    inside = Pairs(i, j, pairs.similarity).where((i >= 0) & (j >= 0))
    return inside._replace(i=inside.i.astype(np.int64), j=inside.j.astype(np.int64))


def _one_per_component(
    labels: Labels,
    rank: NDArray[np.int64],
    protected: NDArray[np.bool_],
    joined: Pairs,
    near: Blocks,
) -> Links:
    """Keep the best node of each component; link others to it, by its pair if there is one."""
    keeper = best_of_components(labels, rank)
    to_keeper = (p.where((keeper[p.i] == p.j) | (keeper[p.j] == p.i)) for p in near())
    links = link_to_keepers(keeper, rank, gather([joined, *to_keeper]))
    return links._replace(keeper=np.where(protected, np.arange(len(rank)), keeper))


def _keep_direct(
    labels: Labels,
    rank: NDArray[np.int64],
    protected: NDArray[np.bool_],
    joined: Pairs,  # noqa: ARG001 - the same call for both rules
    near: Blocks,
) -> Links:
    """Keep greedily inside each component."""
    num = len(rank)
    keeper = np.arange(num)
    link, similarity = np.full(num, -1, np.int64), np.full(num, np.nan, np.float32)
    for nodes, pairs in inside_components(near, labels, np.ones(num, np.bool_)):
        part = keep_greedily(rank[nodes], protected[nodes], pairs)
        keeper[nodes] = nodes[part.keeper]
        link[nodes] = np.where(part.link < 0, -1, nodes[part.link])
        similarity[nodes] = part.similarity
    return Links(keeper, link, similarity)


def _to_images(
    candidates: Candidates,
    node_of: NDArray[np.int64],
    best: NDArray[np.int64],
    labels: Labels,
    links: Links,
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
    if candidates.source is not None:
        # Of each component and source: one that is kept, else the best one.
        order = np.lexsort((candidates.rank, ~kept, candidates.source, component.reshape(-1)))
        ends = np.stack([component.reshape(-1), candidates.source])[:, order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (ends[:, 1:] != ends[:, :-1]).any(axis=0)
        kept[order[is_first]] = True
    return Groups(
        kept=kept,
        reason=np.where(is_best, np.where(has_link, NEAR, NONE), EXACT).astype(np.int8),
        component=ids[first][component.reshape(-1)],  # ids ascend: the first is the smallest
        duplicate_of=np.where(kept, -1, ids[best[keeper[node_of]]]),
        link=np.where(is_best, np.where(has_link, ids[linked_row], -1), ids[best_row]),
        similarity=np.where(is_best, similarity[node_of], np.float32(1)).astype(np.float32),
        num_split=num_split,
    )
