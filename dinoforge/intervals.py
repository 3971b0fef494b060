"""95 % intervals of means and fractions over a sample of images.

The bootstrap draws images with replacement (Efron 1979, percentile method); all statistics of one
test set share the resamples, so a difference of two models is paired. Draws are functions of
(seed, purpose, resample): neither the order nor the number of statistics changes them.

Shapes: n images, F statistics, R resamples.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.randomness import uniforms

__all__ = [
    "bootstrap_counts",
    "bootstrap_indices",
    "bootstrap_intervals",
    "clopper_pearson_interval",
    "mcnemar_exact",
    "percentile_interval",
    "resampled_means",
    "unanimous_interval",
    "wilson_interval",
]

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 1 << 20


def bootstrap_intervals(
    values_nF: NDArray[Any], *, resamples: int, seed: int, purpose: str = "evaluation/bootstrap"
) -> list[tuple[float, float]]:
    """Return the 95 % interval of the mean of every column (1 where a model is right, say).

    The cost is R times n draws. Statistics that are not compared have a ``purpose`` of their own.
    """
    indices = bootstrap_indices(len(values_nF), resamples, seed, purpose)
    means_RF = resampled_means(values_nF, indices)
    return [percentile_interval(column) for column in means_RF.T]


def bootstrap_indices(
    n: int, resamples: int, seed: int, purpose: str = "evaluation/bootstrap"
) -> Iterator[NDArray[np.int64]]:
    """Yield blocks of resamples, int64 ``[r, n]`` of 0 .. n - 1, drawn with replacement."""
    step = max(1, _DRAWS_AT_ONCE // max(n, 1))
    for start in range(0, resamples, step):
        which = np.arange(start, min(start + step, resamples))
        draws = uniforms(seed, purpose, which, count=n)
        yield (draws * n).astype(np.int64)


def bootstrap_counts(
    n: int, resamples: int, seed: int, purpose: str = "evaluation/bootstrap"
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of n units was drawn, int64 ``[n]``, for every resample.

    The resamples of `bootstrap_indices`, for statistics that are no mean of the units: micro-AP,
    mIoU of pooled pixels.
    """
    for index_rn in bootstrap_indices(n, resamples, seed, purpose):
        for index_n in index_rn:
            yield np.bincount(index_n, minlength=n)


def resampled_means(values_nF: NDArray[Any], indices: Iterable[NDArray[np.int64]]) -> Floats:
    """Return the mean of every column in every resample, ``[R, F]``."""
    values_nF = np.asarray(values_nF, np.float64)
    n = len(values_nF)
    parts = []
    for index_rn in indices:
        rows = np.arange(len(index_rn))[:, None] * n
        counts_rn = np.bincount((rows + index_rn).ravel(), minlength=len(index_rn) * n)
        # Sums of 0 and 1 are exact in any order.
        parts.append(counts_rn.reshape(-1, n).astype(np.float64) @ values_nF / n)
    return np.concatenate(parts)


def percentile_interval(means_R: Floats) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile, linearly interpolated."""
    low, high = np.percentile(means_R, [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a fraction (Wilson 1927).

    Also for fractions of 0 and 1, where all resamples are equal and the bootstrap has no width.
    SciPy's ``proportion_ci`` differs in the last bits.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % exact interval of a fraction (Clopper and Pearson 1934).

    Covers at least 95 % whatever the fraction is, so it is wider than Wilson's.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


def unanimous_interval(value: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean of n values -1, 0 or 1 that are all ``value``.

    There the bootstrap has no width. The share of other values is at most that of Clopper and
    Pearson (1934), all of them at the far end; 0 is inside up to n = 5, as in McNemar's test.
    """
    other = 1.0 - 0.025 ** (1.0 / n)
    if value == 0:
        return -other, other
    low, high = value - value * 2 * other, float(value)
    return min(low, high), max(low, high)


def mcnemar_exact(wins: int, losses: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947).

    ``wins`` and ``losses`` count the test images that only the first, or only the second model
    classifies correctly; under the null hypothesis they are equally likely.
    """
    from scipy.stats import binomtest

    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses).pvalue)
