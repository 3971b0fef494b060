"""Shares and means with their intervals, in the form of the summary."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.intervals import bootstrap_intervals, wilson_interval

__all__ = ["bootstrap_mean", "share"]

Estimate = dict[str, float | int | list[float] | None]


def share(hits: int, total: int) -> Estimate:
    """Return the share ``hits / total`` with its 95 % interval (Wilson); None if ``total`` is 0."""
    if total == 0:
        return {"value": None, "interval": None, "hits": hits, "n": total}
    return {
        "value": round(hits / total, 6),
        "interval": [round(end, 6) for end in wilson_interval(hits, total)],
        "hits": hits,
        "n": total,
    }


def bootstrap_mean(values: NDArray[np.float64], *, seed: int, purpose: str) -> Estimate:
    """Return the mean with its 95 % percentile bootstrap interval (1,000 resamples)."""
    if len(values) == 0:
        return {"value": None, "interval": None, "n": 0}
    ((low, high),) = bootstrap_intervals(
        values[:, None], resamples=1000, seed=seed, purpose=f"bootstrap/{purpose}"
    )
    return {
        "value": round(float(values.mean()), 6),
        "interval": [round(low, 6), round(high, 6)],
        "n": len(values),
    }
