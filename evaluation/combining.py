"""How values per unit (image, block of frames, video, query) become one number.

Every rule takes ``values [U, ...]``, one row per unit, and how often each unit counts, ``[U]``:
ones for the number itself, draws for its interval, zeros for units that are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.metrics.classification import (
    auroc,
    average_precision,
    average_precision_11,
    class_means,
    mean_of_present,
)
from dinoforge.evaluation.metrics.copies import (
    ScoredPairs,
    micro_average_precision,
    recall_at_precision,
    unpack_pairs,
)
from dinoforge.evaluation.metrics.segmentation import mean_iou
from dinoforge.intervals import bootstrap_counts

__all__ = ["PAIR_RULES", "RULES", "as_known", "combine", "resample"]

Counts = NDArray[np.int64]


def _mean(values: NDArray[Any], counts: Counts) -> float:
    return float(counts @ values.astype(np.float64) / counts.sum())


def _ratio(values: NDArray[Any], counts: Counts) -> float:
    above, below = counts @ values.astype(np.float64)
    return float(above / below) if below else float("nan")


def _mean_iou(values: NDArray[Any], counts: Counts) -> float:
    return float(mean_iou(np.tensordot(counts, values, axes=1)).mean())


def _class_mean(values: NDArray[Any], counts: Counts) -> float:
    labels = values[:, 1].astype(np.int64)
    means = class_means(values[:, 0], labels, num_classes=labels.max() + 1, counts=counts)
    return mean_of_present(means)[0]


def _mean_over_labels(metric: Callable[..., float]) -> Callable[[NDArray[Any], Counts], float]:
    def mean(values: NDArray[Any], counts: Counts) -> float:
        scores, truths = values[:, 0].T, values[:, 1].T
        each = [
            metric(of_label[truth >= 0], truth[truth >= 0], counts[truth >= 0])
            for of_label, truth in zip(scores, truths, strict=True)
        ]
        return mean_of_present(np.array(each))[0]

    return mean


# Rule -> function. mean: values [U]; ratio: numerators and denominators, [U, 2] (the mean over
# objects of videos, a share of all pairs); class_mean: the share that is right and the class,
# [U, 2], the mean over classes of their means; map, map_11 (VOC2007) and auroc: scores and truths
# (1, 0, -1: does not count) of K labels, [U, 2, K], the mean over labels; mean_iou: areas of S
# seeds (`metrics.segmentation`), [U, S, 3, K].
RULES: Mapping[str, Callable[[NDArray[Any], Counts], float]] = {
    "mean": _mean,
    "ratio": _ratio,
    "class_mean": _class_mean,
    "map": _mean_over_labels(average_precision),
    "map_11": _mean_over_labels(average_precision_11),
    "auroc": _mean_over_labels(auroc),
    "mean_iou": _mean_iou,
}


# Rule -> function of pairs of all queries in one list; values are those of `pack_pairs`.
PAIR_RULES: Mapping[str, Callable[[ScoredPairs, Counts], float]] = {
    "micro_ap": micro_average_precision,
    "recall_at_p90": lambda pairs, counts: recall_at_precision(pairs, 0.9, counts).recall,
}


def _statistic(rule: str, values: NDArray[Any]) -> Callable[[Counts], float]:
    """Return the number as a function of counts; pairs are sorted once for all counts."""
    if rule in PAIR_RULES:
        pairs = unpack_pairs(values)
        return lambda counts: PAIR_RULES[rule](pairs, counts)
    return lambda counts: RULES[rule](values, counts)


def as_known(values: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return the rule and the values of a mean over units ``[U]`` that leaves out those of NaN."""
    known = np.isfinite(values)
    if known.all():
        return "mean", values
    return "ratio", np.stack([np.where(known, values, 0), known], axis=1)


def combine(rule: str, values: NDArray[Any], counts: Counts | None = None) -> float:
    """Return the number of all units, or of those with counts; NaN of none."""
    counts = np.ones(len(values), np.int64) if counts is None else counts
    return _statistic(rule, values)(counts) if counts.any() else float("nan")


def resample(rule: str, values: NDArray[Any], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the number in every resample, ``[R]``: equal draws for an equal number of units."""
    draws = bootstrap_counts(len(values), resamples, seed)
    statistic = _statistic(rule, values)
    return np.array([statistic(counts) for counts in draws])
