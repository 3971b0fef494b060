"""Precision per bin and above every threshold, recall of the stored pairs, from a few labels.

Labels are a stratified sample: a bin of N pairs of which a share p shows the same picture holds
N p true pairs. Precision above a threshold and recall weight the bins by N. Their intervals are
percentiles over draws of every p from its Jeffreys posterior (Brown, Cai and DasGupta 2001,
"Interval estimation for a binomial proportion"); a bin of which every pair is labeled has no
uncertainty. Recall is of the pairs above the floor only: what lies below was not stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.calibration.sample import Bin
from dinoforge.intervals import percentile_interval, wilson_interval

__all__ = ["BinEstimate", "ThresholdEstimate", "estimate_bins", "estimate_thresholds", "recommend"]

_DRAWS = 2000

Interval = tuple[float, float]


@dataclass(frozen=True)
class BinEstimate:
    """Share of a bin's pairs that show the same picture, with its 95 % interval (Wilson)."""

    low: float
    high: float
    pairs: int
    same: int  # labels
    different: int
    precision: float | None  # None without labels
    interval: Interval | None


@dataclass(frozen=True)
class ThresholdEstimate:
    """What a threshold would give; None where a bin above it has pairs but no label."""

    threshold: float
    pairs: int  # stored above it
    precision: float | None
    precision_interval: Interval | None
    recall: float | None  # of the true pairs above the floor
    recall_interval: Interval | None


def estimate_bins(
    bins: Sequence[Bin], same: NDArray[np.int64], different: NDArray[np.int64]
) -> list[BinEstimate]:
    """Estimate every bin by itself; ``same`` and ``different`` count its labels ``[bins]``."""
    estimates = []
    for one, yes, no in zip(bins, same.tolist(), different.tolist(), strict=True):
        n = yes + no
        estimates.append(
            BinEstimate(
                one.low,
                one.high,
                one.pairs,
                yes,
                no,
                round(yes / n, 6) if n else None,
                _rounded(wilson_interval(yes, n)) if n else None,
            )
        )
    return estimates


def estimate_thresholds(bins: Sequence[BinEstimate], *, seed: int = 0) -> list[ThresholdEstimate]:
    """Estimate the lower edge of every bin as a threshold, from low to high."""
    weights = np.array([one.pairs for one in bins], np.float64)
    shares = np.array([one.precision or 0.0 for one in bins])
    known = np.array([one.precision is not None or not one.pairs for one in bins])
    draws = weights * _draw_shares(bins, seed)
    above, above_draws = _sum_from(weights * shares), _sum_from(draws)
    estimates = []
    for at, one in enumerate(bins):
        num = int(weights[at:].sum())
        precision = recall = precision_interval = recall_interval = None
        if num and known[at:].all():
            precision = round(float(above[at]) / num, 6)
            precision_interval = _rounded(percentile_interval(above_draws[:, at] / num))
        if known.all() and above[0]:
            recall = round(float(above[at] / above[0]), 6)
            recall_interval = _rounded(
                percentile_interval(above_draws[:, at] / np.maximum(above_draws[:, 0], 1e-12))
            )
        estimates.append(
            ThresholdEstimate(one.low, num, precision, precision_interval, recall, recall_interval)
        )
    return estimates


def recommend(thresholds: Sequence[ThresholdEstimate], precision: float) -> float | None:
    """Return the lowest threshold from which on the estimated precision is reached; None if none.

    Thresholds above it must reach it, too, as far as pairs are stored above them: a lucky bin
    below a bad one does not count.
    """
    best = None
    for one in reversed(thresholds):
        if not one.pairs:
            continue
        if one.precision is None or one.precision < precision:
            break
        best = one.threshold
    return best


def _draw_shares(bins: Sequence[BinEstimate], seed: int) -> NDArray[np.float64]:
    """Draw the share of true pairs of every bin ``[draws, bins]``."""
    rng = np.random.default_rng([seed, len(bins)])
    draws = np.zeros((_DRAWS, len(bins)))
    for at, one in enumerate(bins):
        labeled = one.same + one.different
        if labeled and labeled < one.pairs:
            unseen = rng.beta(one.same + 0.5, one.different + 0.5, _DRAWS)
            draws[:, at] = (one.same + (one.pairs - labeled) * unseen) / one.pairs
        elif labeled:
            draws[:, at] = one.same / labeled
    return draws


def _sum_from(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum along the last axis from every position to the end."""
    return np.flip(np.cumsum(np.flip(values, -1), -1), -1)


def _rounded(interval: Interval) -> Interval:
    return round(interval[0], 6), round(interval[1], 6)
