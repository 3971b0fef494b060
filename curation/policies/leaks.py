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

# Pairs shown per reference set: the most and the least similar leaks, and pairs that just miss.
_MOST, _LEAST, _BELOW = 12, 8, 4


@dataclass(frozen=True)
class Leaks:
    """One row per content that leaks, sorted by content."""

    content: NDArray[np.int64]
    reference: NDArray[np.int64]  # most similar reference content; -1 if only through others
    similarity: NDArray[np.float32]  # NaN if only through others


def find_leaks(
    links: Pairs, is_reference: NDArray[np.bool_], *, in_set: NDArray[np.bool_] | None = None
) -> tuple[Leaks, Leaks]:
    """Find the contents that leak, by both readings: direct, and by component (a superset).

    ``links`` are the pairs of contents that show the same; equal pixels on both sides are one of
    similarity 1. ``is_reference`` is True for the contents of reference sets, and ``in_set`` for
    those whose leaks are wanted, by default all.
    """
    wanted = is_reference if in_set is None else in_set
    direct = nearest_references(links, is_reference, wanted)
    return direct, _by_component(links, is_reference, wanted, direct)


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


def pairs_to_show(leaks: Leaks, misses: Leaks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose rows for people to look at, most similar first.

    The most and the least similar of ``leaks``; of the ``misses``, the nearest references by pairs
    that do not count, the most similar of contents that do not leak.
    """
    shown, missed = (
        np.lexsort((rows.content, -rows.similarity.astype(np.float64))) for rows in (leaks, misses)
    )
    if len(shown) > _MOST + _LEAST:
        shown = np.concatenate([shown[:_MOST], shown[-_LEAST:]])
    missed = missed[~np.isin(misses.content[missed], leaks.content)]
    return shown, missed[:_BELOW]


def _by_component(
    links: Pairs, is_reference: NDArray[np.bool_], in_set: NDArray[np.bool_], direct: Leaks
) -> Leaks:
    nodes, compact = np.unique(np.concatenate([links.i, links.j]), return_inverse=True)
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
