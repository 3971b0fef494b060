"""Which images show what a reference image (a benchmark) shows.

Two readings of DINOv2 (section A.3), both always counted: *direct*, an image is above the threshold
to a reference image; *component*, it is connected to one by pairs above the threshold, and the
whole component goes. The second chains: it may drop a third of a pool.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs
from dinoforge.neighbors.join import connected_components

__all__ = ["Leaks", "find_leaks"]


@dataclass(frozen=True)
class Leaks:
    """One row per content that leaks, sorted by content."""

    content: NDArray[np.int64]
    reference: NDArray[np.int64]  # most similar reference content; -1 if only through others
    similarity: NDArray[np.float32]  # NaN if only through others


def find_leaks(
    pairs: Pairs, is_reference: NDArray[np.bool_], threshold: float
) -> tuple[Leaks, Leaks]:
    """Find the contents that leak, by both readings: direct, and by component (a superset).

    Pairs are between contents, and count strictly above ``threshold``; equal pixels on both sides
    are a pair of similarity 1. ``is_reference`` is True for the contents of reference sets.
    """
    near = pairs.above(threshold)
    source, target, similarity = near.both_ways()
    touching = ~is_reference[source] & is_reference[target]
    image, reference, value = source[touching], target[touching], similarity[touching]
    order = np.lexsort((reference, -value, image))
    content, first = np.unique(image[order], return_index=True)
    direct = Leaks(content, reference[order][first], value[order][first])
    return direct, _by_component(near, is_reference, direct)


def _by_component(near: Pairs, is_reference: NDArray[np.bool_], direct: Leaks) -> Leaks:
    nodes, compact = np.unique(np.concatenate([near.i, near.j]), return_inverse=True)
    ends = compact.reshape(2, -1).astype(np.int64)
    labels = connected_components(len(nodes), ends[0], ends[1])
    tainted = np.zeros(len(nodes), np.bool_)
    tainted[labels[is_reference[nodes]]] = True
    content = nodes[tainted[labels] & ~is_reference[nodes]]
    reference = np.full(len(content), -1, np.int64)
    similarity = np.full(len(content), np.nan, np.float32)
    at = np.searchsorted(content, direct.content)
    reference[at], similarity[at] = direct.reference, direct.similarity
    return Leaks(content, reference, similarity)
