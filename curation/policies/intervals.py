"""Intervals for shares: how sure a measured precision or recall is."""

import math

import numpy as np
from numpy.typing import NDArray

from dinoforge.randomness import uniforms

__all__ = ["bootstrap_mean", "share"]

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
_RESAMPLES = 1000


def share(hits: int, total: int) -> dict[str, float | int | list[float] | None]:
    """Share ``hits / total`` with its 95 % interval (Wilson 1927); None when ``total`` is 0."""
    if total == 0:
        return {"value": None, "interval": None, "hits": hits, "n": total}
    p, z2 = hits / total, _Z95**2
    center = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    low, high = max(0.0, center - half), min(1.0, center + half)
    return {
        "value": round(p, 6),
        "interval": [round(min(low, p), 6), round(max(high, p), 6)],
        "hits": hits,
        "n": total,
    }


def bootstrap_mean(
    values: NDArray[np.float64], *, seed: int, purpose: str
) -> dict[str, float | int | list[float] | None]:
    """Mean with its 95 % percentile bootstrap interval over ``values`` (1,000 resamples)."""
    num = len(values)
    if num == 0:
        return {"value": None, "interval": None, "n": 0}
    means = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, 100):  # 100 resamples at a time bound the memory
        draws = uniforms(seed, f"bootstrap/{purpose}", np.arange(start, start + 100), count=num)
        means[start : start + 100] = values[(draws * num).astype(np.int64)].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "value": round(float(values.mean()), 6),
        "interval": [round(float(low), 6), round(float(high), 6)],
        "n": num,
    }
