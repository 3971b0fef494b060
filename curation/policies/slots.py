"""Which seed gets which neighbor: the retrieval policies, applied to stored candidates.

A *slot* is one (seed, neighbor) of a seed's list. DINOv2 counts slots (its table 15 has exactly
k x seeds rows per set), so an image that several seeds retrieve counts several times there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.randomness import uniforms

__all__ = [
    "Slots",
    "cap_slots",
    "collisions",
    "concat_slots",
    "draw_again",
    "fill_slots",
    "gini",
    "share_clusters",
    "take_slots",
]


@dataclass(frozen=True)
class Slots:
    """Granted slots as columns, sorted by ``(rule, seed, rank)``."""

    seed: NDArray[np.int64]  # row of the seed among the seeds
    rank: NDArray[np.int64]  # 0 is the seed's nearest candidate
    image_id: NDArray[np.int64]
    score: NDArray[np.float32]
    rule: NDArray[np.int32]  # number of the rule that granted it

    def first_of_each_image(self) -> "Slots":
        """Keep the best slot of every image.

        That of the first rule; there the highest score, then the smaller seed, then rank.
        """
        strength = -self.score.astype(np.float64)
        order = np.lexsort((self.rank, self.seed, strength, self.rule, self.image_id))
        _, first = np.unique(self.image_id[order], return_index=True)
        return self.take(order[first])

    def take(self, rows: NDArray[np.int64] | slice) -> "Slots":
        """Select slots by row."""
        return Slots(*(getattr(self, column.name)[rows] for column in fields(self)))


def concat_slots(parts: Sequence[Slots]) -> Slots:
    """Put slots of several rules one after the other; at least one part."""
    names = [column.name for column in fields(Slots)]
    return Slots(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def take_slots(
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    k: int,
    policy: Literal["multiset", "distinct", "fill"],
    rule: int = 0,
) -> Slots:
    """Grant at most ``k`` slots per seed.

    Candidates are ``[seeds, c]`` with ``c >= k``, best first, padded with id -1. ``multiset`` and
    ``distinct`` grant each seed its first ``k`` (they differ in how often an image is exported);
    ``fill`` gives an image to one seed only, and the others go on to the next one of their lists.
    """
    seeds, width = ids.shape
    seed = np.repeat(np.arange(seeds), width)
    rank = np.tile(np.arange(width), seeds)
    rules = np.full(seeds * width, rule, np.int32)
    every = Slots(seed, rank, ids.reshape(-1), scores.reshape(-1), rules)
    every = every.take(np.flatnonzero(every.image_id >= 0))
    if policy == "fill":
        return fill_slots(every, seeds, k)
    return every.take(np.flatnonzero(every.rank < k))


def fill_slots(candidates: Slots, num_seeds: int, k: int) -> Slots:
    """Match seeds and images by descending score: an image once, a seed at most ``k`` times.

    The greedy matching over all slots sorted by (score descending, seed, image), computed in
    rounds: a slot is granted when it is the first one left of its image and among the first ones
    left that its seed may still take. Both are true in the greedy matching too, so the result is
    the same, whatever the order in which seeds are listed.
    """
    order = np.lexsort((candidates.image_id, candidates.seed, -candidates.score.astype(np.float64)))
    left = order
    room = np.full(num_seeds, k, np.int64)
    granted: list[NDArray[np.int64]] = []
    while len(left):
        image, seed = candidates.image_id[left], candidates.seed[left]
        is_first = np.zeros(len(left), np.bool_)
        is_first[np.unique(image, return_index=True)[1]] = True
        take = is_first & (_count_before(seed) < room[seed])
        granted.append(left[take])
        room -= np.bincount(seed[take], minlength=num_seeds)
        left = left[~np.isin(image, image[take]) & (room[seed] > 0)]
    rows = np.concatenate(granted) if granted else np.empty(0, np.int64)
    rows = rows[np.lexsort((candidates.rank[rows], candidates.seed[rows]))]
    return candidates.take(rows)


def share_clusters(
    sizes: NDArray[np.int64],
    num_seeds: NDArray[np.int64],
    *,
    per_cluster: int,
    min_seeds: int,
    skip_small: bool,
) -> NDArray[np.int64]:
    """Return how many images each cluster gives: DINOv2, section A.4, cluster-based retrieval.

    ``sizes`` and ``num_seeds`` are the images and the seeds in each cluster. A cluster with fewer
    images than ``per_cluster`` gives all of them, or with ``skip_small`` none.
    """
    is_chosen = num_seeds >= min_seeds
    if skip_small:
        is_chosen &= sizes >= per_cluster
    return np.where(is_chosen, np.minimum(sizes, per_cluster), 0)


def draw_again(labels: NDArray[Any], missing: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Draw ``missing`` further rows of each cluster, with replacement; returns their numbers.

    ``labels`` are the clusters of the rows. The n-th draw of a cluster is keyed by both, so it is
    the same for every rule.
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=len(missing))
    first = np.cumsum(sizes) - sizes
    cluster = np.repeat(np.arange(len(missing)), missing)
    nth = np.arange(len(cluster)) - np.repeat(np.cumsum(missing) - missing, missing)
    draws = uniforms(seed, "retrieve/again", cluster, epoch=nth)[:, 0]
    return order[first[cluster] + (draws * sizes[cluster]).astype(np.int64)]


def cap_slots(slots: Slots, cap: int, *, multiset: bool, seed: int, purpose: str) -> Slots:
    """Draw ``cap`` slots of a ``multiset``, else images with all of their slots; 0: all.

    Uniformly over all of them: DINOv2 (section A.4) gives the cap, not how it is drawn. Each has a
    random number keyed by seed, purpose and image, and those with the smallest stay, so a larger
    cap only adds some.
    """
    image = slots.image_id
    rows = np.arange(len(image)) if multiset else np.unique(image, return_index=True)[1]
    if not 0 < cap < len(rows):
        return slots
    times = _count_before(image[rows])  # 0 for images
    draws = uniforms(seed, purpose, image[rows], epoch=times)[:, 0]
    rows = rows[np.lexsort((times, image[rows], draws))[:cap]]
    return slots.take(np.sort(rows) if multiset else np.flatnonzero(np.isin(image, image[rows])))


def _count_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each value occurred before: ``[a, b, a] -> [0, 0, 1]``."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    within = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    counts = np.empty(len(values), np.int64)
    counts[order] = within
    return counts


def gini(counts: NDArray[np.int64]) -> float:
    """Return the Gini coefficient of non-negative counts: 0 all equal, near 1 one has all."""
    total = counts.sum()
    if not len(counts) or total == 0:
        return 0.0
    ordered = np.sort(counts).astype(np.float64)
    n = len(ordered)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float(weights @ ordered / (n * total))


def collisions(slots: Slots, *, asked: int, pool_size: int) -> dict[str, Any]:
    """Count how often seeds retrieve the same image.

    ``asked`` is the number of slots requested: k x seeds. The Gini coefficient is over all
    ``pool_size`` images that could have been retrieved.
    """
    times = np.unique(slots.image_id, return_counts=True)[1]
    how_often, images = np.unique(times, return_counts=True)
    never = pool_size - len(times)
    return {
        "asked": asked,
        "slots": len(slots.image_id),
        "distinct": len(times),
        "multiplicity": {str(m): int(c) for m, c in zip(how_often, images, strict=True)},
        "gini": round(gini(np.concatenate([np.zeros(max(never, 0), np.int64), times])), 6),
    }
