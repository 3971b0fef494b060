"""Patches of two images that show the same: mutual nearest neighbors, and one motion of them all.

Places are rows and columns of patches; points in the plane are complex numbers, column + i row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.views.regions import Features, unit
from dinoforge.randomness import uniforms

__all__ = ["Matches", "keep_one_motion", "match_patches", "position_basis", "remove_position"]

_HYPOTHESES = 2000  # of RANSAC: half of all pairs are good with 3 % of good matches


class Matches(NamedTuple):
    """Pairs of patches, the most similar first."""

    a: NDArray[np.int64]  # [k, 2] places in the first image
    b: NDArray[np.int64]  # [k, 2] places in the second
    similarity: NDArray[np.float64]  # [k] cosines
    # [k] distance to b over the distance to the nearest patch of that image which does not touch
    # b; near 1: the match is one of several (Lowe 2004, section 7.1)
    ratio: NDArray[np.float64]

    def keep(self, kept: NDArray[np.bool_]) -> "Matches":
        """Return those that a mask ``[k]`` selects."""
        return Matches(self.a[kept], self.b[kept], self.similarity[kept], self.ratio[kept])


def match_patches(a_XYD: Features, b_XYD: Features, *, mutual: bool = True) -> Matches:
    """Match the patches of two images, which may differ in size.

    Each patch of a with its nearest of b by the cosine of their features; ``mutual``: only if it is
    also the nearest of that one.
    """
    columns_a, (rows_b, columns_b) = a_XYD.shape[1], b_XYD.shape[:2]
    flat_a, flat_b = (unit(side).reshape(-1, side.shape[2]) for side in (a_XYD, b_XYD))
    cosines_ab = flat_a @ flat_b.T
    nearest = cosines_ab.argmax(axis=1)
    kept = np.arange(len(flat_a))
    if mutual:
        kept = np.flatnonzero(cosines_ab.argmax(axis=0)[nearest] == kept)
    cosines = cosines_ab[kept, nearest[kept]]
    order = np.argsort(-cosines, kind="stable")
    at_a, at_b = kept[order], nearest[kept][order]
    places_a = np.stack(np.divmod(at_a, columns_a), axis=1)
    places_b = np.stack(np.divmod(at_b, columns_b), axis=1)
    # Neighbors of the best patch show much of the same: a rival is one that does not touch it.
    grid = np.stack(np.divmod(np.arange(rows_b * columns_b), columns_b), axis=1)
    touches = (np.abs(grid - places_b[:, None]) <= 1).all(axis=2)
    rivals = np.where(touches, -np.inf, cosines_ab[at_a]).max(axis=1)
    best = cosines[order]
    # Of unit vectors, the squared distance is 2 - 2 cosine.
    far = np.maximum(1 - rivals, 1e-12)
    ratio = np.sqrt(np.clip((1 - best) / far, 0, 1))
    return Matches(places_a, places_b, best, ratio)


def keep_one_motion(matches: Matches, *, tolerance: float = 1.5, seed: int = 0) -> Matches:
    """Keep the matches with which one similarity transform from a to b agrees best.

    RANSAC: scale, rotation and shift from two matches, tried on 2,000 pairs of them that depend on
    ``seed`` alone; a match agrees within ``tolerance`` patches of either image. Fewer than three
    matches are kept as they are.
    """
    if len(matches.a) < 3:
        return matches
    z, w = (places[:, 1] + 1j * places[:, 0] for places in (matches.a, matches.b))
    draws = uniforms(seed, "demo/motion", np.arange(_HYPOTHESES), count=2)
    first = (draws[:, 0] * len(z)).astype(np.int64)
    # Of two different matches, so that there is a distance between them.
    second = (first + 1 + (draws[:, 1] * (len(z) - 1)).astype(np.int64)) % len(z)
    scale = (w[first] - w[second]) / (z[first] - z[second])
    shift = w[first] - scale * z[first]
    size = np.abs(scale)
    away = np.abs(scale[:, None] * z + shift[:, None] - w)
    agree = away < tolerance * np.maximum(size, 1)[:, None]
    agree &= (size > 0)[:, None]
    return matches.keep(agree[int(agree.sum(axis=1).argmax())])


def position_basis(images: Sequence[Features], count: int = 8) -> NDArray[np.float64]:
    """Return the directions ``[count, D]`` in which features depend on the place of a patch.

    ``images`` are features of one size of unrelated images, such as noise: what they have in common
    at a place is the place. The principal directions of their mean, as INSID3 removes them
    (arXiv 2603.28480).
    """
    mean_XYD = np.mean([image.astype(np.float64) for image in images], axis=0)
    centered = mean_XYD.reshape(-1, mean_XYD.shape[2]) - mean_XYD.mean(axis=(0, 1))
    return np.linalg.svd(centered, full_matrices=False)[2][:count]


def remove_position(features_XYD: Features, basis_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove the directions of `position_basis` from features, ``[X, Y, D]``."""
    return features_XYD - (features_XYD @ basis_RD.T) @ basis_RD
