"""Filters of the exact join: products of fewer or smaller numbers that bound the exact ones.

Rows x are rotated by the eigenvectors of x'x of a sample, without centering. With h the first k
coordinates and t the norm of the rest, Cauchy-Schwarz gives ``<x, y> <= <h(x), h(y)> + t(x) t(y)``:
one product of k + 1 columns. Where the processor multiplies int8 fast, the columns are rounded to
int8, and the bound grows by what rounding can change. The pairs that stay are scored in full, so
the pairs of a join do not depend on its filter.

Every float32 result is bounded, not estimated. With ``u = 2^-24``, a sum of n products is off by
at most ``n u |x| |y|`` (Higham 2002, section 3.1).

Shapes: n, m rows; d dimensions; k coordinates kept; c columns of codes.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import Rows, TileProduct, multiply_int8

__all__ = ["Codes", "Int8Filter", "PairFilter", "PlainFilter", "RotationFilter"]

# A column of the tail's norm has about the size of the coordinates if it is spread over several.
_TAIL_COLUMNS = 8
# Below, squares are subnormal numbers, and relative errors are not bounded.
_LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Codes:
    """Rows as a filter multiplies them."""

    values: NDArray[Any]  # [n, c], float32 or int8
    norm: float  # bounds |x|
    scale: float = 1.0  # of int8: the value of 1
    error: float = 0.0  # of int8: bounds the norm of what rounding changes in a row


class PairFilter(Protocol):
    """What proposes pairs: products of codes above a bound."""

    def encode(self, rows: Rows) -> Codes:
        """Encode finite rows, ``[n, d]``."""

    def bound(self, a: Codes, b: Codes, threshold: float) -> float:
        """Return what the product of a pair exceeds if its inner product is above ``threshold``."""

    def above(self, a: NDArray[Any], b: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """Return which products are above, ``[n, m]``, valid until the next call."""


class PlainFilter:
    """The float32 products of the rows themselves, in NumPy or on a torch device."""

    def __init__(self, backend: str = "numpy", device: str = "cpu") -> None:
        self.above = TileProduct(backend, device).above

    def encode(self, rows: Rows) -> Codes:
        """Encode rows; see `PairFilter.encode`."""
        return Codes(rows, _norm_of(np.einsum("nd,nd->n", rows, rows)))

    def bound(self, a: Codes, b: Codes, threshold: float) -> float:
        """Bound products; see `PairFilter.bound`."""
        return threshold - 2 * _rounding(a.values.shape[1]) * a.norm * b.norm

    def __str__(self) -> str:
        return "plain products"


class RotationFilter:
    """The first k coordinates and the norm of the rest, in float32.

    Parameters
    ----------
    axes : ndarray
        float32 ``[d, k]``: orthonormal but for rounding, which is measured.
    """

    def __init__(self, axes: NDArray[np.float32]) -> None:
        self._axes = axes
        self._above = TileProduct("numpy", "cpu").above
        dim, kept = axes.shape
        wide = axes.astype(np.float64)
        skew = float(np.linalg.norm(wide.T @ wide - np.eye(kept)))
        # The computed coordinates are within this share of |x| of those on the orthonormal axes
        # closest to these (their polar factor).
        self._share = skew + math.sqrt(kept) * _rounding(dim) * (1 + skew)

    @property
    def num_kept(self) -> int:
        """Return k."""
        return self._axes.shape[1]

    def encode(self, rows: Rows) -> Codes:
        """Encode rows; see `PairFilter.encode`."""
        head, tail, norm = self._split(rows)
        return Codes(np.concatenate([head, tail[:, None]], axis=1), norm)

    def bound(self, a: Codes, b: Codes, threshold: float) -> float:
        """Bound products; see `PairFilter.bound`."""
        if min(a.norm, b.norm) < _LEAST_NORM:
            return -math.inf
        share = self._share
        lost = share * (2 + share) + 2 * _rounding(a.values.shape[1]) + 2.0**-22
        return threshold - lost * a.norm * b.norm

    def above(self, a: NDArray[Any], b: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """Compare products; see `PairFilter.above`."""
        return self._above(a, b, bound)

    def _split(self, rows: Rows) -> tuple[Rows, NDArray[np.float32], float]:
        """Return coordinates ``[n, k]``, a bound on the norm of the rest, and one on all norms."""
        head = rows @ self._axes
        squares, kept = (np.einsum("nd,nd->n", x, x) for x in (rows, head))
        unsure = 2 * self._share * (1 + self._share) + 4 * _rounding(sum(self._axes.shape))
        rest = np.maximum(squares - kept, 0) + np.float32(unsure) * squares
        return head, np.sqrt(rest), _norm_of(squares)

    def __str__(self) -> str:
        dim, kept = self._axes.shape
        return f"float32 filter, {kept} of {dim} coordinates"


class Int8Filter(RotationFilter):
    """The coordinates and the norm of the rest, rounded to int8; torch multiplies them.

    The axes are best mixed at random, so that coordinates have one size.
    """

    def __init__(self, axes: NDArray[np.float32]) -> None:
        super().__init__(axes)
        self._products = np.zeros(0, np.int32)
        self._is_above = np.zeros(0, np.bool_)

    def encode(self, rows: Rows) -> Codes:
        """Encode rows; see `PairFilter.encode`."""
        head, tail, norm = self._split(rows)
        kept = self.num_kept
        columns = _TAIL_COLUMNS + -kept % 8
        full = np.empty((len(rows), kept + columns), np.float32)
        full[:, :kept] = head
        full[:, kept:] = tail[:, None] * np.float32(columns**-0.5)
        if norm < _LEAST_NORM:  # `bound` lets every pair pass
            return Codes(np.zeros(full.shape, np.int8), norm)
        scale = float(max(full.max(), -full.min())) / 127
        codes = np.rint(full * np.float32(1 / scale))
        full -= codes * np.float32(scale)
        changed = _norm_of(np.einsum("nc,nc->n", full, full))
        return Codes(codes.astype(np.int8), norm, scale, changed + 2.0**-20 * norm)

    def bound(self, a: Codes, b: Codes, threshold: float) -> float:
        """Bound products; see `PairFilter.bound`."""
        # A row of columns is longer than x by at most what is unsure about its tail.
        norms = [code.norm * (1 + 4 * self._share + 2.0**-10) for code in (a, b)]
        rounded = a.error * norms[1] + (norms[0] + a.error) * b.error
        return (super().bound(a, b, threshold) - rounded) / (a.scale * b.scale)

    def above(self, a: NDArray[Any], b: NDArray[Any], bound: float) -> NDArray[np.bool_]:
        """Compare products; see `PairFilter.above`."""
        # Whole numbers above a bound are above the whole number below it.
        limits = np.iinfo(np.int32)
        low = np.int32(np.clip(bound, limits.min + 2, limits.max) - 1)
        size = len(a) * len(b)
        if len(self._products) < size:
            self._products, self._is_above = np.empty(size, np.int32), np.empty(size, np.bool_)
        shape = (len(a), len(b))
        products = multiply_int8(a, b, self._products[:size].reshape(shape))
        return np.greater(products, low, out=self._is_above[:size].reshape(shape))

    def __str__(self) -> str:
        dim, kept = self._axes.shape
        return f"int8 filter, {kept} of {dim} coordinates"


def _rounding(num: int) -> float:
    """Bound the error of a float32 sum of so many products, as a share of |x| |y|."""
    return 1.01 * num * 2.0**-24


def _norm_of(squares: NDArray[np.float32]) -> float:
    """Bound the norms from above by their computed squares."""
    return math.sqrt(float(squares.max(initial=0))) * 1.001
