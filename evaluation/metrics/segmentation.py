"""Semantic segmentation: confusion matrices that pool by addition, and the scores of a pool.

mIoU is that of one matrix pooled over the whole test set; the mean of the mIoU of single images is
another figure. A unit that an interval resamples (an image, a block of neighboring frames) is
one matrix; resampled units are added up and scored in the same way.

Shapes: H x W pixels, K classes, U units.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.sizes import check_size

__all__ = ["areas_of", "class_scores", "confusion_matrix", "mean_iou", "pool"]

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion_matrix(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    *,
    num_classes: int,
    ignore_index: int = 255,
    where: str = "mask",
) -> Counts:
    """Count the pixels of an image: ``[K, K]``, rows are labels, columns predictions.

    Parameters
    ----------
    predicted, labels : ndarray of int
        ``[H, W]``, or any equal shapes. Predictions are classes; labels may be ``ignore_index``.
    where : str
        The file of the labels, for messages.

    Raises
    ------
    UsageError
        If the sizes differ, or a label is neither a class nor ``ignore_index``.
    """
    check_size(labels.shape, predicted.shape, what="mask", where=where)
    counted = labels != ignore_index
    truth = labels[counted].astype(np.int64)
    if truth.size and not 0 <= int(truth.min()) <= int(truth.max()) < num_classes:
        outside = int(truth.min()) if truth.min() < 0 else int(truth.max())
        raise UsageError(
            what=f"label {outside} is beyond the list of {num_classes} classes",
            where=where,
            do=f"labels are 0 to {num_classes - 1}, and {ignore_index} for ignored pixels",
        )
    chosen = predicted[counted].astype(np.int64)
    assert not chosen.size or 0 <= chosen.min() <= chosen.max() < num_classes, "predicted classes"
    pairs = np.bincount(truth * num_classes + chosen, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def pool(matrices: Sequence[Counts], units: Sequence[Hashable]) -> Mapping[Hashable, Counts]:
    """Add the matrices of each unit, in the order in which units first occur."""
    pooled: dict[Hashable, Counts] = {}
    for unit, matrix in zip(units, matrices, strict=True):
        pooled[unit] = pooled[unit] + matrix if unit in pooled else matrix
    return pooled


def areas_of(matrices: NDArray[Any]) -> NDArray[Any]:
    """Reduce matrices ``[..., K, K]`` to all that scores need, ``[..., 3, K]``.

    Per class the pixels that are right, labeled and predicted. They add up like matrices, so the
    areas of units are the rows to resample: `mean_iou` of their mean is that of their sum.
    """
    right = np.diagonal(matrices, axis1=-2, axis2=-1)
    return np.stack([right, matrices.sum(axis=-1), matrices.sum(axis=-2)], axis=-2)


def class_scores(areas: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return IoU, accuracy and dice per class, ``[..., K]``, of areas ``[..., 3, K]``.

    Accuracy is the share of a class's pixels that are right (recall). NaN where the denominator is
    0: a class that is predicted but never labeled has an IoU of 0 and no accuracy.
    """
    right, labeled, predicted = (areas[..., i, :].astype(np.float64) for i in range(3))
    return (
        _ratio(right, labeled + predicted - right),
        _ratio(right, labeled),
        _ratio(2 * right, labeled + predicted),
    )


def mean_iou(areas: NDArray[Any]) -> Floats:
    """Return mIoU ``[...]`` of areas ``[..., 3, K]``; NaN if no pixel is labeled or predicted."""
    return _mean_of_known(class_scores(areas)[0])


def _ratio(part: Any, whole: Any) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean_of_known(values: Floats) -> Floats:
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
