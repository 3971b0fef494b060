"""Which images show what a reference image (a benchmark) shows.

Two readings of DINOv2 (section A.3), both always counted: *direct*, an image is above the threshold
to a reference image; *component*, it is connected to one by pairs above the threshold, and the
whole component goes. The second chains: it may drop a third of a pool.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs
from dinoforge.neighbors.components import connected_components

__all__ = ["Leaks", "find_leaks", "nearest_references", "pairs_to_show"]

# Pairs shown per reference set: the most and the least similar above the threshold, and below it.
_MOST, _LEAST, _BELOW = 12, 8, 4


@dataclass(frozen=True)
class Leaks:
    """One row per content that leaks, sorted by content."""

    content: NDArray[np.int64]
    reference: NDArray[np.int64]  # most similar reference content; -1 if only through others
    similarity: NDArray[np.float32]  # NaN if only through others


def find_leaks(
    pairs: Pairs,
    is_reference: NDArray[np.bool_],
    threshold: float,
    *,
    in_set: NDArray[np.bool_] | None = None,
) -> tuple[Leaks, Leaks]:
    """Find the contents that leak, by both readings: direct, and by component (a superset).

    Pairs are between contents, and count strictly above ``threshold``; equal pixels on both sides
    are a pair of similarity 1. ``is_reference`` is True for the contents of reference sets, and
    ``in_set`` for those whose leaks are wanted, by default all.
    """
    near = pairs.above(threshold)
    wanted = is_reference if in_set is None else in_set
    direct = nearest_references(near, is_reference, wanted)
    return direct, _by_component(near, is_reference, wanted, direct)


def nearest_references(
    pairs: Pairs, is_reference: NDArray[np.bool_], in_set: NDArray[np.bool_]
) -> Leaks:
    """Return every content with a pair to a reference of a set, and the most similar of these."""
    source, target, similarity = pairs.both_ways()
    touching = ~is_reference[source] & in_set[target]
    image, reference, value = source[touching], target[touching], similarity[touching]
    order = np.lexsort((reference, -value, image))
    content, first = np.unique(image[order], return_index=True)
    return Leaks(content, reference[order][first], value[order][first])


def pairs_to_show(closest: Leaks, threshold: float) -> NDArray[np.int64]:
    """Choose rows for people to look at, most similar first.

    The most and the least similar above the threshold, and the most similar below it.
    """
    order = np.lexsort((closest.content, -closest.similarity.astype(np.float64)))
    num_above = int(np.count_nonzero(closest.similarity.astype(np.float64) > threshold))
    above, below = order[:num_above], order[num_above:]
    if num_above > _MOST + _LEAST:
        above = np.concatenate([above[:_MOST], above[-_LEAST:]])
    return np.concatenate([above, below[:_BELOW]])


def _by_component(
    near: Pairs, is_reference: NDArray[np.bool_], in_set: NDArray[np.bool_], direct: Leaks
) -> Leaks:
    nodes, compact = np.unique(np.concatenate([near.i, near.j]), return_inverse=True)
    ends = compact.reshape(2, -1).astype(np.int64)
    labels = connected_components(len(nodes), ends[0], ends[1])
    tainted = np.zeros(len(nodes), np.bool_)
    tainted[labels[in_set[nodes]]] = True
    content = nodes[tainted[labels] & ~is_reference[nodes]]
    reference = np.full(len(content), -1, np.int64)
    similarity = np.full(len(content), np.nan, np.float32)
    at = np.searchsorted(content, direct.content)
    reference[at], similarity[at] = direct.reference, direct.similarity
    return Leaks(content, reference, similarity)
