"""Masks from the attention of the class token, compared with annotated masks.

The masks are those of `dinoforge.attention.masks`. One head per image is chosen by the truth
(`best`), which flatters; one head for all images is chosen once (`one_head`).

Shapes: H heads, n units, X rows and Y columns of patches or of pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.masks import jaccard

__all__ = ["HeadScores", "combine_heads", "score_heads"]


def score_heads(
    masks_HXY: NDArray[np.bool_],
    truth_XY: NDArray[np.bool_],
    void_XY: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Compute the Jaccard index of every head with a mask of pixels, without void: ``[H]``.

    The masks of patches are resampled (nearest) to the pixels of the truth.
    """
    pixels_HXY = np.stack([resize_nearest(mask, *truth_XY.shape) for mask in masks_HXY])
    return jaccard(truth_XY, pixels_HXY, void_XY)


@dataclass(frozen=True)
class HeadScores:
    """Jaccard index per unit (image or object); both choices of heads peek at the truth."""

    best: NDArray[np.float64]  # of the best head of each unit
    one_head: NDArray[np.float64]  # of the head that is best on average
    head: int  # that head


def combine_heads(scores_nH: NDArray[np.float64]) -> HeadScores:
    """Choose the best head of every unit, and the one with the best mean (of equal ones the first).

    The numbers to report are the means of ``best`` and ``one_head``.
    """
    head = int(scores_nH.mean(axis=0).argmax())
    return HeadScores(scores_nH.max(axis=1), scores_nH[:, head], head)
