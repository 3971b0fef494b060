"""Masks from the attention of the class token, compared with annotated masks.

DINO's visualization rule (Caron et al. 2021, section 4.2.2 and appendix): of each head's attention
on the patches, keep those that hold most of the mass. One head per image is chosen by the truth
(`best`), which flatters; one head for all images is chosen once (`one_head`).

Shapes: H heads, N tokens, R registers, X rows and Y columns of patches or of pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.masks import jaccard

__all__ = ["HeadScores", "attention_masks", "combine_heads", "score_heads"]

Floats = NDArray[np.floating]


def attention_masks(attention_HXY: Floats, *, mass: float = 0.6) -> NDArray[np.bool_]:
    """Keep the patches of every head that hold ``mass`` of its attention: bool ``[H, X, Y]``.

    As published: patches in ascending order are left out as long as their sum is at most
    ``1 - mass``. Of equal ones, the first are left out.
    """
    flat_HN = attention_HXY.reshape(len(attention_HXY), -1)
    order_HN = np.argsort(flat_HN, axis=1, kind="stable")
    ascending_HN = np.take_along_axis(flat_HN, order_HN, axis=1)
    shares_HN = ascending_HN / ascending_HN.sum(axis=1, keepdims=True)
    masks_HN = np.empty(flat_HN.shape, np.bool_)
    np.put_along_axis(masks_HN, order_HN, np.cumsum(shares_HN, axis=1) > 1 - mass, axis=1)
    return masks_HN.reshape(attention_HXY.shape)


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
