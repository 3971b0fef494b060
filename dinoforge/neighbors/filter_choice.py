"""Choose how an exact join finds its candidates: by estimated cost, on a sample of its rows.

How many pairs a filter lets pass depends on the rows: those of real embeddings are mostly in few
directions; of rows in random directions every coordinate counts, and plain products win. The choice
changes the time of a join and nothing else.

Shapes: n sampled rows; d dimensions; k coordinates kept.
"""

import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.filters import Int8Filter, PairFilter, PlainFilter, RotationFilter
from dinoforge.neighbors.products import Rows, multiplies_int8, usable_rows

__all__ = ["choose_filter"]

_log = logging.getLogger(__name__)

_SAMPLE_ROWS = 4096
_GLANCE_ROWS = 128  # looked at first
_HOPELESS = 0.05  # of all pairs
# With fewer pairs, choosing costs as much as it saves: 0.1 to 0.2 s.
_LEAST_PRODUCTS = 2**26
_LEAST_SAMPLE = 1024
# Columns of all products: importing torch takes 2 s, and int8 saves as much of 12 s.
_WORTH_TORCH = 2**39

# k as sixteenths of d; at 2/16 nearly every pair of real embeddings passes.
_KEPT = (3, 4, 5, 6, 8, 12)
_LEAST_KEPT = 16  # comparing the products costs as much as so few columns

# Costs of a pair in columns of a float32 product: 22 ps on a Zen 4 core, which does 90 GFLOP/s.
_INT8_COLUMN = 1 / 4.3
_COMPARE = 6.0  # compare with the bound, list what is above
_SCORE = (4000.0, 70.0)  # gather and score in float64: fixed, and per dimension
_ROUND = 0.03  # round to int8, per column of a block
_BLOCK_ROWS = 4096  # rows are encoded once per block that they are compared with


def choose_filter(
    rows: NDArray[Any], *, threshold: float, num_products: int, backend: str, device: str
) -> PairFilter:
    """Return the filter with the least estimated cost, which may be plain products.

    Parameters
    ----------
    rows : ndarray
        float32 or float16 ``[n, d]``: rows like those of the join; about 4,000 are looked at.
    threshold : float
        Of the join.
    num_products : int
        Pairs that the join compares. For few it does not pay to choose.
    backend, device : str
        As in `join_above`; only NumPy's products on a CPU have a filter.
    """
    plain = PlainFilter(backend, device)
    if num_products < _LEAST_PRODUCTS or backend != "numpy":
        return plain
    sample = np.ascontiguousarray(rows[:: -(-len(rows) // _SAMPLE_ROWS)], np.float32)
    sample = sample[usable_rows(sample)]
    if len(sample) < _LEAST_SAMPLE:
        return plain
    dim = sample.shape[1]
    chosen: PairFilter = plain
    plain_cost = least = dim + _COMPARE + _scoring(plain, sample, threshold)
    axes = np.zeros(0)
    has_torch = "torch" in sys.modules or num_products * dim >= _WORTH_TORCH
    has_int8 = multiplies_int8() and has_torch
    for cost, kept, is_int8 in _options(dim, has_int8=has_int8):
        if cost >= least:
            break
        axes = axes if len(axes) else _principal_axes(sample[::2])
        some = axes[:, -kept:]
        candidate = Int8Filter(_mixed(some)) if is_int8 else RotationFilter(_float32(some))
        total = cost + _scoring(candidate, sample, threshold)
        if total < least:
            least, chosen = total, candidate
    speedup = plain_cost / least
    _log.info("exact join of %d pairs: %s, estimated speed %.1f", num_products, chosen, speedup)
    return chosen


def _options(dim: int, *, has_int8: bool) -> list[tuple[float, int, bool]]:
    """List cost without scoring, k, and whether int8, by cost."""
    encode = dim / _BLOCK_ROWS  # per coordinate
    some = [dim * share // 16 for share in _KEPT if dim * share // 16 >= _LEAST_KEPT]
    options = [(kept + 1 + _COMPARE + kept * encode, kept, False) for kept in some]
    if has_int8:
        options += [
            ((kept + 8) * _INT8_COLUMN + _COMPARE + kept * (encode + _ROUND), kept, True)
            for kept in (*some, dim)
        ]
    return sorted(options)


def _scoring(pair_filter: PairFilter, sample: Rows, threshold: float) -> float:
    """Estimate the cost of scoring what a filter lets pass, from pairs of two quarters."""
    share = 0.0
    for num in (_GLANCE_ROWS, _SAMPLE_ROWS):
        # Other rows than those that the axes were fitted to: a fit promises too much.
        left, right = (pair_filter.encode(sample[at::4][:num].copy()) for at in (1, 3))
        bound = pair_filter.bound(left, right, threshold)
        share = float(np.mean(pair_filter.above(left.values, right.values, bound)))
        if share > _HOPELESS:
            break
    return share * (_SCORE[0] + _SCORE[1] * sample.shape[1])


def _principal_axes(sample: Rows) -> NDArray[np.float64]:
    """Return the eigenvectors of x'x as columns, by increasing eigenvalue."""
    axes: NDArray[np.float64] = np.linalg.eigh((sample.T @ sample).astype(np.float64))[1]
    return axes


def _mixed(axes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rotate axes at random within their span: coordinates then have about the same size."""
    normal = np.random.default_rng(0).normal(size=(axes.shape[1],) * 2)
    return _float32(axes @ np.linalg.qr(normal)[0])


def _float32(axes: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(axes, np.float32)
