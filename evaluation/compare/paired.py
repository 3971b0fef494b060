"""Differences of two models on the same units: interval, p-value, correction for many tests.

Resamples are those of the records (`outcomes.with_intervals`): drawn by seed and number of units,
so they pair models of different runs as they pair models of one. A number of several seeds is
their mean in every resample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import resample
from dinoforge.evaluation.compare.comparison import Interval
from dinoforge.evaluation.compare.values import Unitwise
from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.intervals import (
    bootstrap_indices,
    mcnemar_exact,
    percentile_interval,
    resampled_means,
    unanimous_interval,
)

__all__ = ["Tested", "bootstrap", "holm", "smallest_p", "unpaired_interval"]

Floats = NDArray[np.float64]
Sample = Sequence[Unitwise]  # of one model on one benchmark: one per seed
_ROUNDING = 1e-12  # a sum of thirds that is 0 differs from it by less


@dataclass(frozen=True)
class Tested:
    """A difference, or one number, with what its resamples say."""

    value: float
    interval: Interval | None
    p: float | None
    units: int


def bootstrap(
    pairs: Sequence[tuple[Sample, Sample | None]], config: BootstrapConfig
) -> list[Tested]:
    """Resample differences ``a - b``, or one number where ``b`` is None, all with equal draws.

    Two-sided p-values: McNemar's exact test where every unit is right or wrong in both; else
    ``2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (R + 1)`` of R resamples, and at least ``2^(1 - m)``,
    the smallest that a test of signs can give if m units differ: three units that agree prove
    nothing, however often they are drawn.
    """
    result: dict[int, Tested] = {}
    columns: dict[int, list[tuple[int, NDArray[Any]]]] = {}  # units -> pairs of means
    drawn: dict[int, Floats] = {}
    for number, (a, b) in enumerate(pairs):
        if a[0].outcome.rule == "mean":
            values = _mean(a) if b is None else _mean(a) - _mean(b)
            columns.setdefault(len(values), []).append((number, values))
            continue
        draws, value = _pooled(a, drawn, config), _value(a)
        if b is not None:
            draws, value = draws - _pooled(b, drawn, config), value - _value(b)
        num_differing = 0 if b is None else _num_differing(a, b)
        result[number] = _tested(value, draws, len(a[0].outcome.values), num_differing)
    for n, some in columns.items():
        table = np.stack([values for _, values in some], axis=1)
        indices = bootstrap_indices(n, config.resamples, config.seed)
        means_RF = resampled_means(table, indices)
        for (number, values), draws in zip(some, means_RF.T, strict=True):
            result[number] = _tested_mean(values, draws)
    return [result[number] for number in range(len(pairs))]


def _mean(sample: Sample) -> NDArray[Any]:
    """Return values per unit; int8 only of one seed whose every unit is right or wrong."""
    if len(sample) == 1:
        return sample[0].outcome.values
    return np.mean([one.outcome.values for one in sample], axis=0)


def _value(sample: Sample) -> float:
    return math.fsum(one.outcome.record.value for one in sample) / len(sample)


def _pooled(sample: Sample, drawn: dict[int, Floats], config: BootstrapConfig) -> Floats:
    for one in sample:
        if id(one) not in drawn:
            outcome = one.outcome
            drawn[id(one)] = resample(
                outcome.rule, outcome.values, resamples=config.pooled_resamples, seed=config.seed
            )
    return np.mean([drawn[id(one)] for one in sample], axis=0)


def _num_differing(a: Sample, b: Sample) -> int:
    if len(a) != len(b):
        return len(a[0].outcome.values)
    differs = [
        (x.outcome.values != y.outcome.values).reshape(len(x.outcome.values), -1).any(axis=1)
        if x.outcome.values.shape == y.outcome.values.shape
        else np.ones(len(x.outcome.values), np.bool_)
        for x, y in zip(a, b, strict=True)
    ]
    return int(np.any(differs, axis=0).sum())


def _tested_mean(values: NDArray[Any], draws: Floats) -> Tested:
    value = float(values.mean())
    if values.dtype != np.int8:
        return _tested(value, draws, len(values), int((np.abs(values) > _ROUNDING).sum()))
    p = mcnemar_exact(int((values > 0).sum()), int((values < 0).sum()))
    is_unanimous = bool((values == values[0]).all())
    if is_unanimous:  # the bootstrap has no width
        return Tested(value, unanimous_interval(int(values[0]), len(values)), p, len(values))
    return Tested(value, percentile_interval(draws), p, len(values))


def _tested(value: float, draws: Floats, units: int, num_differing: int) -> Tested:
    known = draws[np.isfinite(draws)]  # without any positive unit a number is undefined
    if not len(known) or math.isnan(value):
        return Tested(value, None, None, units)
    counts = [int((known <= _ROUNDING).sum()), int((known >= -_ROUNDING).sum())]
    p = (min(counts) + 1) * smallest_p(len(known))
    p = min(1.0, max(p, 2.0 ** (1 - num_differing)))
    return Tested(value, percentile_interval(known), p, units)


def smallest_p(resamples: int) -> float:
    """Return the smallest two-sided p-value of a bootstrap."""
    return 2 / (resamples + 1)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number (Holm 1979); None stays and does not count.

    The i-th smallest of m is multiplied by ``m - i + 1``; no corrected value is smaller than one
    before it, or above 1.
    """
    order = sorted((p, at) for at, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for number, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - number)))
        corrected[at] = largest
    return corrected


def unpaired_interval(a: float, interval_a: Interval, b: float, interval_b: Interval) -> Interval:
    """Return the 95 % interval of ``a - b`` of independent samples, from those of a and b.

    ``low = a - b - sqrt((a - low_a)^2 + (high_b - b)^2)``, and the same upward: Newcombe (1998),
    method 10. Far wider than a paired one where two models agree on most units.
    """
    low = a - b - math.hypot(a - interval_a[0], interval_b[1] - b)
    high = a - b + math.hypot(interval_a[1] - a, b - interval_b[0])
    return low, high
