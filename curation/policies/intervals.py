"""Shares and means with their intervals, as the summary of a curation holds them."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.intervals import bootstrap_intervals, wilson_interval

__all__ = ["bootstrap_mean", "share"]

_RESAMPLES = 1000


def share(hits: int, total: int) -> dict[str, float | int | list[float] | None]:
    """Share ``hits / total`` with its 95 % interval (Wilson); None when ``total`` is 0."""
    if total == 0:
        return {"value": None, "interval": None, "hits": hits, "n": total}
    return {
        "value": round(hits / total, 6),
        "interval": [round(end, 6) for end in wilson_interval(hits, total)],
        "hits": hits,
        "n": total,
    }


def bootstrap_mean(
    values: NDArray[np.float64], *, seed: int, purpose: str
) -> dict[str, float | int | list[float] | None]:
    """Mean with its 95 % percentile bootstrap interval over ``values`` (1,000 resamples)."""
    if len(values) == 0:
        return {"value": None, "interval": None, "n": 0}
    ((low, high),) = bootstrap_intervals(
        values[:, None], resamples=_RESAMPLES, seed=seed, purpose=f"bootstrap/{purpose}"
    )
    return {
        "value": round(float(values.mean()), 6),
        "interval": [round(low, 6), round(high, 6)],
        "n": len(values),
    }
