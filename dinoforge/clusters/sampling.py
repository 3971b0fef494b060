"""Even sampling over clusters: water filling in closed form, level by level.

A node gives each child ``min(x, size)`` with the largest whole x that its target allows, and one
more to some of the larger children until the target is met exactly (Vo et al. 2024, section 3.3).

Shapes: n rows; K clusters.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.randomness import uniforms

__all__ = ["choose_rows", "share_over_levels", "water_fill"]

Ids = NDArray[np.int64]


def water_fill(sizes: Ids, group: Ids, targets: Ids, *, seed: int, purpose: str) -> Ids:
    """Divide the target of each group evenly over its members.

    By sorted sizes and their prefix sums: filling all members of a group up to the size of the
    i-th smallest costs the sum of the smaller ones and that size for each of the rest. The members
    whose size the target pays for are full; the others share what is left.

    Parameters
    ----------
    sizes, group : ndarray of int64
        ``[m]``, at least 0, and the group of each member.
    targets : ndarray of int64
        ``[groups]``, at least 0. A group smaller than its target gives all it has.
    seed, purpose
        Key the draw of the members that get one more, by position.

    Returns
    -------
    ndarray of int64
        ``[m]``, at most ``sizes``; per group the sum is ``min(target, sum of sizes)``.
    """
    order = np.lexsort((sizes, group))
    size, of = sizes[order], group[order]
    first = np.searchsorted(of, np.arange(len(targets)))
    before = np.concatenate([[0], np.cumsum(size)])
    spent = before[:-1] - before[first][of]  # by the smaller members of the group
    members = np.bincount(group, minlength=len(targets))
    left = members[of] - (np.arange(len(size)) - first[of])  # this one and the larger ones
    is_full = spent + size * left <= targets[of]
    full = np.bincount(of[is_full], minlength=len(targets))
    rest = targets - (before[first + full] - before[first])
    cut = rest // np.maximum(members - full, 1)
    given = np.where(is_full, size, cut[of])
    # The cut is below the size of every member that is not full.
    more = np.where(full < members, rest - cut * (members - full), 0)
    draws = uniforms(seed, purpose, order)[:, 0]
    ranked = np.lexsort((draws, is_full, of))
    rank = np.arange(len(order)) - first[of]
    given[ranked] += rank < more[of]
    shares = np.empty(len(sizes), np.int64)
    shares[order] = given
    return shares


def share_over_levels(sizes: Ids, parents: Sequence[Ids], target: int, *, seed: int) -> list[Ids]:
    """Divide a target from the highest level down.

    Parameters
    ----------
    sizes : ndarray of int64
        ``[K]``, rows of each cluster of the first level.
    parents : sequence of ndarray
        Of each level but the highest: the cluster of the next level that a cluster belongs to.
    target : int
        Rows overall; all there are if it is larger.

    Returns
    -------
    list of ndarray
        Shares of the clusters of each level, the first level first.
    """
    every = [sizes]
    for parent in parents:
        every.append(_sums(every[-1], parent))
    group = np.zeros(len(every[-1]), np.int64)
    shares = [np.array([target])]
    for number in range(len(every), 0, -1):
        purpose = f"balance/level{number}"
        level = every[number - 1]
        shares.append(water_fill(level, group, shares[-1], seed=seed, purpose=purpose))
        if number > 1:
            group = parents[number - 2]
    return shares[:0:-1]


def _sums(sizes: Ids, parent: Ids) -> Ids:
    sums = np.zeros(int(parent.max(initial=-1)) + 1, np.int64)
    np.add.at(sums, parent, sizes)
    return sums


def choose_rows(
    labels: NDArray[np.int32],
    shares: Ids,
    ids: Ids,
    *,
    distances: NDArray[np.float32],
    rule: Literal["random", "nearest"],
    seed: int,
) -> NDArray[np.bool_]:
    """Choose as many rows of each cluster as its share; returns which, ``[n]``.

    ``random`` draws by the ids of the rows, ``nearest`` takes those nearest to the centroid; ties
    go to the smaller id.
    """
    strength = distances if rule == "nearest" else uniforms(seed, "balance/rows", ids)[:, 0]
    order = np.lexsort((ids, strength, labels))
    label = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(label, label)
    chosen = np.zeros(len(labels), np.bool_)
    chosen[order] = rank < shares[label]
    return chosen
