"""Boxes against annotated boxes, and CorLoc: the share of images with an object localized.

A box is (left, top, right, bottom) in pixels; right and bottom are the first ones outside. Units to
resample are images.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["box_iou", "is_localized", "mask_box"]


def box_iou(box: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Compute intersection over union of a box ``[4]`` with others ``[n, 4]``: ``[n]``.

    LOST's code adds 1e-7 to sides and unions, which lowers the result by about 1e-8.
    """
    box, others = np.asarray(box, np.float64), np.asarray(others, np.float64).reshape(-1, 4)
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersection = (high - low).clip(0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def is_localized(box: ArrayLike, truths: ArrayLike, *, threshold: float = 0.5) -> bool:
    """Return whether a box has an IoU of at least ``threshold`` with any of the truths ``[n, 4]``.

    CorLoc is the mean over images. Leave images without boxes out, and report how many.
    """
    overlaps = box_iou(box, truths)
    assert len(overlaps), "an image without boxes has no CorLoc"
    return bool((overlaps >= threshold).any())


def mask_box(mask_XY: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the smallest box around a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask_XY.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
