"""How good the retrieval is where labels are known: whether seeds find their own class.

Precision is over the neighbors that seeds were given, recall over the surviving pool images of
the seeds' classes; chance is what drawing pool images blindly would give. Labels judge here,
they never decide.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.intervals import bootstrap_mean, share
from dinoforge.curation.policies.slots import Slots

__all__ = ["retrieval_quality"]


def retrieval_quality(
    slots: Slots,
    seed_class: NDArray[np.int64],
    image_class: NDArray[np.int64],
    pool: NDArray[np.int64],
    *,
    rng_seed: int,
) -> dict[str, Any] | None:
    """Compare what seeds got with their classes.

    Parameters
    ----------
    slots : Slots
        Granted slots; ``seed`` numbers the rows of ``seed_class``.
    seed_class : ndarray
        Class of each asking seed; -1 is unknown.
    image_class : ndarray
        Class of every image, by image id; -1 is unknown.
    pool : ndarray
        Ids of the pool images that could be asked for.
    rng_seed : int
        Keys the bootstrap (over seeds).

    Returns
    -------
    dict or None
        ``precision`` (bootstrap over seeds), ``precision_at`` by number of neighbors, their
        ``chance``; ``recall`` (Wilson) and its ``chance``. None when no class is known.
    """
    known = seed_class >= 0
    pool_class = image_class[pool]
    if not known.any() or not (pool_class >= 0).any():
        return None
    classes, seeds_of = np.unique(seed_class[known], return_counts=True)
    judged = known[slots.seed]
    right = image_class[slots.image_id[judged]] == seed_class[slots.seed[judged]]
    seed, rank = slots.seed[judged], slots.rank[judged]
    depth = int(rank.max()) + 1 if len(rank) else 0
    depths = sorted({1, *(d for d in (5, 10, 20, 50, 100) if d < depth), depth} - {0})
    per_class = np.array([np.count_nonzero(pool_class == c) for c in classes])
    relevant = np.isin(pool_class, classes)
    got = np.unique(slots.image_id[judged][right])
    taken = len(np.unique(slots.image_id[judged]))
    return {
        "classes": len(classes),
        "seeds": int(known.sum()),
        "precision": _per_seed(right, seed, rng_seed, "precision"),
        "precision_at": {
            str(d): _per_seed(right[rank < d], seed[rank < d], rng_seed, f"precision@{d}")
            for d in depths
        },
        "precision_chance": round(float(seeds_of @ per_class / seeds_of.sum() / len(pool)), 6),
        "recall": share(len(got), int(relevant.sum())),
        "recall_chance": round(taken / max(len(pool), 1), 6),
    }


def _per_seed(
    right: NDArray[np.bool_], seed: NDArray[np.int64], rng_seed: int, purpose: str
) -> dict[str, Any]:
    """Mean over seeds of the share of right neighbors; seeds are what is resampled."""
    if not len(seed):
        return {"value": None, "interval": None, "n": 0}
    total = np.bincount(seed)
    hits = np.bincount(seed, weights=right, minlength=len(total))
    asked = total > 0
    return bootstrap_mean(hits[asked] / total[asked], seed=rng_seed, purpose=purpose)
