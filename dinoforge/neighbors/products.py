"""Inner products in tiles, and the one formula by which a pair is scored.

Shapes: n, m rows; d dimensions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_scores", "prepare", "slack", "tile_product", "usable_rows"]

Rows = NDArray[np.float32]

_PAIRS_AT_ONCE = 1 << 16  # of d float64: 256 MiB at d = 512 in the worst case


def prepare(rows: NDArray[Any]) -> Rows:
    """Return rows as contiguous float32 (float16 is exact in it)."""
    return np.ascontiguousarray(rows, dtype=np.float32)


def usable_rows(rows: Rows) -> NDArray[np.bool_]:
    """Tell which rows may enter a join: finite and not zero (NaN compares as "unique")."""
    squares = np.einsum("nd,nd->n", rows, rows)
    usable: NDArray[np.bool_] = np.isfinite(squares) & (squares > 0)
    return usable


def exact_scores(
    a: Rows, b: Rows, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Score pairs (i, j): the inner product of the float32 rows, summed in float64.

    Sums in float64 differ by the order of summation only in their last bits, far below a
    float32; ``einsum`` without BLAS has one order for one d.
    """
    scores = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left = a[i[part]].astype(np.float64)
        left *= b[j[part]]
        scores[part] = left.sum(axis=1)
    return scores


def slack(a: Rows, b: Rows) -> float:
    """Bound how far a float32 product may be from the exact one: d * eps * |a| * |b|."""
    if not len(a) or not len(b):
        return 0.0
    norms = [float(np.einsum("nd,nd->n", x, x).max()) ** 0.5 for x in (a, b)]
    return a.shape[1] * 2.0**-23 * norms[0] * norms[1]


def tile_product(backend: str, device: str) -> Callable[[Rows, Rows], NDArray[np.float32]]:
    """Return the function that multiplies one tile, ``[n, d] x [m, d] -> [n, m]``.

    NumPy's OpenBLAS does 92 to 96 GFLOP/s on a Zen 4 core where torch's product does 80 to 88;
    torch is for CUDA devices.
    """
    if backend == "torch":
        import torch

        def on_torch(a: Rows, b: Rows) -> NDArray[np.float32]:
            left, right = (torch.from_numpy(x).to(device) for x in (a, b))
            product: NDArray[np.float32] = (left @ right.T).cpu().numpy()
            return product

        return on_torch

    def on_numpy(a: Rows, b: Rows) -> NDArray[np.float32]:
        product: NDArray[np.float32] = a @ b.T
        return product

    return on_numpy
