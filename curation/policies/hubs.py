"""Hubs: pictures that resemble very many others, such as text cards, logos and plots.

One of them would link all that resembles it to one group, though these pictures have nothing in
common. It is linked itself, to the picture that it resembles most, and links nothing else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Blocks, Pairs, concat_pairs

__all__ = ["Hubs", "keep_hubs_from_linking"]


class Hubs(NamedTuple):
    """The hubs, ascending, and how many near-duplicates each has; both int64."""

    content: NDArray[np.int64]
    degree: NDArray[np.int64]


def keep_hubs_from_linking(
    blocks: Blocks, contents: NDArray[np.int64], *, threshold: float, max_degree: int
) -> tuple[Blocks, Hubs]:
    """Leave out the pairs by which hubs link others; return the pairs left, and the hubs.

    A hub has more than ``max_degree`` pairs above ``threshold`` with other ``contents``; 0: nothing
    is one. Of its pairs with contents that are no hubs only the most similar is left (at a tie,
    that with the smaller one), so it is a leaf: others are connected as if there were no hubs.
    Pairs of two hubs are left out.

    Pairs are distinct, and read block by block: twice, and by every call of the result. Their order
    changes nothing.
    """
    nodes = np.unique(contents)
    degree = np.zeros(len(nodes), np.int64)

    def near() -> Iterator[Pairs]:
        for block in blocks():
            pairs = block.above(threshold)
            yield pairs.where(np.isin(pairs.i, nodes) & np.isin(pairs.j, nodes))

    for block in near() if max_degree else ():
        ends = np.searchsorted(nodes, np.concatenate(block[:2]))
        degree += np.bincount(ends, minlength=len(nodes))
    is_hub = degree > max_degree
    hubs = Hubs(nodes[is_hub], degree[is_hub]) if max_degree else Hubs(nodes[:0], degree[:0])
    if not len(hubs.content):
        return blocks, hubs
    links = concat_pairs([])
    for block in near():
        links = _best_of_each_hub(concat_pairs([links, block]), hubs.content)
    kept = set(zip(links.i.tolist(), links.j.tolist(), strict=True))

    def left() -> Iterator[Pairs]:
        for block in blocks():
            touches = np.isin(block.i, hubs.content) | np.isin(block.j, hubs.content)
            for row in np.flatnonzero(touches).tolist():
                touches[row] = (int(block.i[row]), int(block.j[row])) not in kept
            yield block.where(~touches)

    return left, hubs


def _best_of_each_hub(pairs: Pairs, hubs: NDArray[np.int64]) -> Pairs:
    """Return of the pairs of one hub and one other content the most similar of each hub."""
    is_hub_i, is_hub_j = (np.isin(end, hubs) for end in pairs[:2])
    pairs, is_hub_i = pairs.where(is_hub_i != is_hub_j), is_hub_i[is_hub_i != is_hub_j]
    hub, other = np.where(is_hub_i, pairs[:2], pairs[1::-1])
    order = np.lexsort((other, -pairs.similarity, hub))
    _, first = np.unique(hub[order], return_index=True)
    best = order[first]
    return Pairs(pairs.i[best], pairs.j[best], pairs.similarity[best])
