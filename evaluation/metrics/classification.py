"""Classification: which images are right, and the numbers that combine them.

A mean over images (accuracy, ReaL, any match) comes as one value per image, which is what an
interval resamples. A number that is no such mean (mean per class, AP, AUROC) is a function of all
images and of how often each counts, see `combining`.

Shapes: n images, K classes, k classes named per image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = [
    "ALEXNET_ERRORS",
    "SEVERITIES",
    "any_match",
    "auroc",
    "average_precision",
    "average_precision_11",
    "class_means",
    "corruption_errors",
    "mean_of_present",
    "most_likely",
    "per_label",
    "select_classes",
    "top_classes",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ROWS_AT_ONCE = 4096

SEVERITIES = 5
# Errors of AlexNet on ImageNet-C, mean of the five severities: Hendrycks and Dietterich 2019, to
# the digits that their repository (hendrycks/robustness) and all users of mCE divide by.
ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def top_classes(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Name the k classes of largest score, int64 ``[n, k]``, best first; ties: the smaller class.

    ``scores`` are ``[n, K]``; NaN comes last. With fewer than k classes all are named.
    """
    if k == 1:
        return np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)[:, None]
    parts = [
        np.argsort(-scores[start : start + _ROWS_AT_ONCE], axis=1, kind="stable")[:, :k]
        for start in range(0, len(scores), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty((0, min(k, scores.shape[1])), np.int64)


def select_classes(scores: NDArray[Any], classes: Sequence[int]) -> NDArray[Any]:
    """Keep the scores of some classes, ``[n, len(classes)]``: before the largest is taken.

    So ImageNet-A and ImageNet-R are scored: among their 200 of the 1,000 classes. Labels are then
    positions in ``classes``.

    Raises
    ------
    UsageError
        If a class repeats, or is none of the K.
    """
    outside = [c for c in classes if not 0 <= c < scores.shape[1]]
    if outside or len(set(classes)) < len(classes):
        bad = outside[0] if outside else next(c for c in classes if list(classes).count(c) > 1)
        raise UsageError(
            what=f"class {bad} {'is beyond the head' if outside else 'repeats'}",
            where=f"the mapping of classes to a head of {scores.shape[1]}",
            do="give every class once, from 0 on",
        )
    return scores[:, list(classes)]


def most_likely(
    scores: NDArray[Any], classes: NDArray[np.int64], kept: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Name the class of largest score of every image, ``[n]``; of equal scores the first.

    ``classes`` ``[K]`` are the numbers of the columns of ``scores`` ``[n, K]``, of which only those
    in ``kept`` compete, if given; -1 without any of them.
    """
    if kept is not None:
        columns = np.flatnonzero(np.isin(classes, kept)).tolist()
        scores, classes = select_classes(scores, columns), classes[columns]
    return classes[scores.argmax(axis=1)] if len(classes) else np.full(len(scores), -1)


def any_match(named: NDArray[np.int64], truths: NDArray[np.int64]) -> Bools:
    """Return which images name a class that is right for them, bool ``[n]``.

    ``named`` is ``[n, k]``, or ``[n]`` for one class per image; ``truths`` ``[n, m]``. Negative
    ones, which fill up shorter rows, are no class. With several right classes the rule of
    ImageNet-ReaL (Beyer et al. 2020, who drop images without any) and of ObjectNet.
    """
    named = named[:, None] if named.ndim == 1 else named
    equal = (named[:, :, None] == truths[:, None, :]) & (truths >= 0)[:, None, :]
    right: Bools = np.any(equal, axis=(1, 2))
    return right


def class_means(
    right: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    predicted: NDArray[np.int64] | None = None,
    counts: NDArray[np.int64] | None = None,
) -> Floats:
    """Return the share of right images of each class, ``[K]``; NaN: the class has no image.

    ``right`` ``[n]`` is bool, or a share of several tries; ``counts`` as in `average_precision_11`.

    With ``predicted`` ``[n]``, a class that has no image but is predicted for a wrong one counts
    as 0: the macro average of torchmetrics for top-1. Without, that over the classes present:
    of torchmetrics for top-k, of scikit-learn's balanced accuracy, of the fine-grained sets.
    """
    counts = np.ones(len(labels), np.int64) if counts is None else counts
    images = np.bincount(labels, counts, minlength=num_classes)
    sums = np.bincount(labels, counts * right, minlength=num_classes)
    means = np.divide(sums, images, out=np.full(num_classes, np.nan), where=images > 0)
    if predicted is not None:
        wrongly = np.unique(predicted[(right == 0) & (predicted >= 0)])
        means[wrongly[images[wrongly] == 0]] = 0.0
    return means


def mean_of_present(values: Floats) -> tuple[float, int]:
    """Return the mean of values that are not NaN, and how many those are."""
    present = values[~np.isnan(values)]
    return (float(present.mean()) if len(present) else float("nan")), len(present)


def corruption_errors(
    is_wrong: NDArray[Any], variants: NDArray[np.int64]
) -> tuple[Floats, dict[str, float]]:
    """Return errors of ImageNet-C relative to AlexNet's: of each image, and of each corruption.

    The mean over either is mCE: 1 is AlexNet, lower is better; published as 100 times that.

    Parameters
    ----------
    is_wrong : ndarray
        ``[n]``, bool, or a share of several tries.
    variants : ndarray of int64
        ``[n, 2]``: the number of the undistorted image, and of the corruption in `ALEXNET_ERRORS`;
        all of both occur.

    Returns
    -------
    of_images : ndarray of float64
        ``[undistorted images]``.
    of_corruptions : dict
        By name.
    """
    relative = is_wrong / np.array([*ALEXNET_ERRORS.values()])[variants[:, 1]]
    of_images, of_corruptions = (np.bincount(of, relative) / np.bincount(of) for of in variants.T)
    return of_images, dict(zip(ALEXNET_ERRORS, of_corruptions.tolist(), strict=True))


def average_precision_11(
    scores: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.int64] | None = None
) -> float:
    """Return the 11-point AP of VOC2007: mean of the best precision at recall >= 0, 0.1, ..., 1.

    ``scores`` ``[n]``, ``truth`` ``[n]`` of 0 and 1, ``counts`` ``[n]`` how often each image is
    there (in a resample; default: once); leave difficult images out. Equal scores keep their order.
    NaN without a positive image.
    """
    hits, images, _ = _curve(scores, truth, counts)
    if not len(hits):
        return float("nan")
    # Thresholds as counts: 0.3 * 10 positives is a recall of 3 / 10, whatever floats say.
    best = [(hits / images)[hits * 10 >= tenth * hits[-1]].max(initial=0.0) for tenth in range(11)]
    return float(np.mean(best))


def average_precision(
    scores: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.int64] | None = None
) -> float:
    """Return AP without interpolation: sum of precision times step of recall, as scikit-learn.

    Equal scores are one step; ``counts`` as in `average_precision_11`. NaN without a positive
    image.
    """
    hits, images, ordered = _curve(scores, truth, counts)
    if not len(hits):
        return float("nan")
    last = np.append(ordered[1:] != ordered[:-1], True)
    steps = np.diff(hits[last] / hits[-1], prepend=0.0)
    return float((steps * hits[last] / images[last]).sum())


def _curve(
    scores: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Positive images and images up to each, best score first, and scores; empty without any."""
    order = np.argsort(-scores, kind="stable")
    if counts is None:
        counts = np.ones(len(scores), np.int64)
    order = order[counts[order] > 0]
    hits = np.cumsum((np.asarray(truth, np.int64) * counts)[order])
    if not len(hits) or hits[-1] == 0:
        return hits[:0], hits[:0], scores[:0]
    return hits, np.cumsum(counts[order]), scores[order]


def auroc(
    scores: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.int64] | None = None
) -> float:
    """Return the area under the ROC curve: the share of pairs in order, ties half; NaN: no pair.

    ``counts`` as in `average_precision_11`.
    """
    counts = np.ones(len(scores), np.int64) if counts is None else counts
    _, at = np.unique(scores, return_inverse=True)
    is_positive = np.asarray(truth, np.bool_)
    positives, negatives = (np.bincount(at, counts * kind) for kind in (is_positive, ~is_positive))
    pairs = positives.sum() * negatives.sum()
    in_order = positives * (np.cumsum(negatives) - negatives / 2)
    return float(in_order.sum() / pairs) if pairs else float("nan")


def per_label(
    metric: Callable[[NDArray[Any], NDArray[Any]], float],
    scores: NDArray[Any],
    truths: NDArray[Any],
    counted: Bools | None = None,
) -> Floats:
    """Return a metric of scores and truth for each of L labels; `mean_of_present` combines them.

    ``scores`` and ``truths`` are ``[n, L]``; ``counted`` of the same shape leaves out what is
    False (the difficult images of VOC2007).
    """
    keep = np.ones(truths.shape, np.bool_) if counted is None else counted
    return np.array(
        [metric(s[k], t[k]) for s, t, k in zip(scores.T, truths.T, keep.T, strict=True)]
    )
