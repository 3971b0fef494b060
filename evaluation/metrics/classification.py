"""Classification: which images are right, and the numbers that combine them.

A mean over images (accuracy, ReaL, any match) comes as one value per image, which is what an
interval resamples. A number that is no such mean (mean per class, AP, AUROC, F1) is a function of
all images: give it resampled ones, see `resampled_interval`.

Shapes: n images, K classes, k classes named per image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.intervals import bootstrap_indices, percentile_interval

__all__ = [
    "ALEXNET_ERRORS",
    "SEVERITIES",
    "any_match",
    "auroc",
    "average_precision",
    "average_precision_11",
    "class_f1",
    "class_means",
    "contains",
    "mean_corruption_error",
    "mean_of_present",
    "most_likely",
    "multiclass_auroc",
    "per_label",
    "resampled_interval",
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


def contains(named: NDArray[np.int64], labels: NDArray[np.int64]) -> Bools:
    """Return which images are right: their label is among the classes named; bool ``[n]``.

    ``named`` is ``[n, k]``, or ``[n]`` for one class per image; a negative one names no class.
    """
    named = named[:, None] if named.ndim == 1 else named
    right: Bools = ((named == labels[:, None]) & (named >= 0)).any(axis=1)
    return right


def any_match(
    named: NDArray[np.int64], truths: Sequence[Sequence[int]] | NDArray[np.int64]
) -> tuple[Bools, Bools]:
    """Return which images name any class of their set, and which have a set.

    The rule of ImageNet-ReaL (Beyer et al. 2020: images without a label are dropped; count them)
    and, with the set of ImageNet classes of each ObjectNet class, of ObjectNet.

    Parameters
    ----------
    named : ndarray of int64
        ``[n, k]``, or ``[n]``.
    truths : sequence
        n sets, or ``[n, m]`` padded with -1.

    Returns
    -------
    right : ndarray of bool
        ``[number with a set]``, in order.
    has_set : ndarray of bool
        ``[n]``.
    """
    named = named[:, None] if named.ndim == 1 else named
    width = max((len(one) for one in truths), default=0)
    table = np.full((len(named), max(width, 1)), -1, np.int64)
    for row, one in zip(table, truths, strict=True):
        row[: len(one)] = one
    has_set: Bools = np.any(table >= 0, axis=1)
    equal = (named[:, :, None] == table[:, None, :]) & (table >= 0)[:, None, :]
    right: Bools = np.any(equal, axis=(1, 2))
    return right[has_set], has_set


def class_means(
    right: Bools,
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    predicted: NDArray[np.int64] | None = None,
) -> Floats:
    """Return the share of right images of each class, ``[K]``; NaN: the class has no image.

    With ``predicted`` ``[n]``, a class that has no image but is predicted for a wrong one counts
    as 0: the macro average of torchmetrics for top-1. Without, that over the classes present:
    of torchmetrics for top-k, of scikit-learn's balanced accuracy, of the fine-grained sets.
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels[right], minlength=num_classes)
    means = np.divide(sums, counts, out=np.full(num_classes, np.nan), where=counts > 0)
    if predicted is not None:
        wrongly = np.unique(predicted[~right & (predicted >= 0)])
        means[wrongly[counts[wrongly] == 0]] = 0.0
    return means


def mean_of_present(values: Floats) -> tuple[float, int]:
    """Return the mean of values that are not NaN, and how many those are."""
    present = values[~np.isnan(values)]
    return (float(present.mean()) if len(present) else float("nan")), len(present)


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> tuple[float, dict[str, float]]:
    """Return mCE of ImageNet-C, and the error of each corruption relative to AlexNet's.

    ``errors`` has the top-1 error (a fraction) at the five severities of each of the 15
    corruptions of `ALEXNET_ERRORS`. mCE is the mean over corruptions; 1 is AlexNet, lower is
    better; published as 100 times that.

    Raises
    ------
    UsageError
        If a corruption or severity is missing.
    """
    for name in ALEXNET_ERRORS:
        num = len(errors.get(name, ()))
        if num != SEVERITIES:
            raise UsageError(
                what=f"mCE needs {SEVERITIES} severities of `{name}`, got {num}",
                where="ImageNet-C",
                do="add the missing folders: mCE is not defined for a part of the corruptions",
            )
    relative = {name: float(np.mean(errors[name])) / base for name, base in ALEXNET_ERRORS.items()}
    return float(np.mean(list(relative.values()))), relative


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


def multiclass_auroc(scores: NDArray[Any], labels: NDArray[np.int64]) -> Floats:
    """Return the AUROC of each class against the others, ``[K]``, from scores ``[n, K]``."""
    return per_label(auroc, scores, labels[:, None] == np.arange(scores.shape[1]))


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


def class_f1(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], *, num_classes: int
) -> Floats:
    """Return F1 of each class, ``[K]``; NaN for a class that is neither labeled nor predicted.

    Their mean over the others is the macro F1; the micro F1 of one class per image is accuracy.
    A negative prediction names no class.
    """
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    named = np.bincount(predicted[predicted >= 0], minlength=num_classes)
    total = np.bincount(labels, minlength=num_classes) + named
    return np.divide(2 * right, total, out=np.full(num_classes, np.nan), where=total > 0)


def resampled_interval(
    metric: Callable[[NDArray[np.int64]], float], n: int, *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a metric that is no mean over its n images.

    ``metric`` takes the rows of a resample, with repeats; the same resamples as those of
    `bootstrap_intervals`. Resamples for which it is NaN are left out.
    """
    blocks = bootstrap_indices(n, resamples, seed)
    values = np.array([metric(rows) for block in blocks for rows in block])
    return percentile_interval(values[~np.isnan(values)])
