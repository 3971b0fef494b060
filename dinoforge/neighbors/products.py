"""Inner products in tiles, and the one formula by which a pair is scored.

Shapes: n, m rows; d dimensions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = [
    "Rows",
    "TileProduct",
    "backend_for",
    "check_backend",
    "exact_scores",
    "prepare",
    "slack",
    "usable_rows",
]

Rows = NDArray[np.float32]

BACKENDS = ("numpy", "torch", "faiss")

# Parts that stay in the cache: 4 MiB at d = 512. 65,536 at once took nine times as long.
_PAIRS_AT_ONCE = 1 << 10


def check_backend(backend: str, where: str) -> None:
    """Refuse a back end that is none.

    Raises
    ------
    UsageError
        Names those there are.
    """
    if backend not in BACKENDS:
        raise UsageError(
            what=f"unknown back end `{backend}`",
            where=where,
            do=f"choose one of {', '.join(BACKENDS)}",
        )


def backend_for(device: str) -> str:
    """Name the back end that multiplies fastest on a device: torch where it is no CPU."""
    return "numpy" if device == "cpu" else "torch"


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
    float32; NumPy's pairwise ``sum`` has one order for one d.
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


class TileProduct:
    """Multiplies tiles, ``[n, d] x [m, d] -> [n, m]``; a result is valid until the next call.

    NumPy's OpenBLAS does 92 to 96 GFLOP/s on a Zen 4 core where torch's product does 80 to 88;
    torch is for CUDA devices.

    Parameters
    ----------
    backend : str
        ``numpy`` or ``torch``.
    device : str
        For torch.
    """

    def __init__(self, backend: str, device: str) -> None:
        self._device = device if backend == "torch" else ""
        # Made once and used again: fresh pages cost a tenth of the join.
        self._products = np.empty(0, np.float32)
        self._sorted = np.empty(0, np.float32)
        self._above = np.empty(0, np.bool_)

    def __call__(self, a: Rows, b: Rows) -> NDArray[np.float32]:
        """Return the products of all pairs."""
        if self._device:
            on_device: NDArray[np.float32] = self._multiply(a, b).cpu().numpy()
            return on_device
        if len(self._products) < len(a) * len(b):
            self._products = np.empty(len(a) * len(b), np.float32)
        return np.matmul(a, b.T, out=self._products[: len(a) * len(b)].reshape(len(a), len(b)))

    def place(self, rows: Rows) -> Any:
        """Return rows that many calls multiply with, moved to the device once."""
        return _tensor(rows).to(self._device) if self._device else rows

    def _multiply(self, a: Any, b: Any) -> Any:
        left, right = (_tensor(x).to(self._device) for x in (a, b))
        return left @ right.T

    def above(self, a: Rows, b: Rows, low: float) -> NDArray[np.bool_]:
        """Tell which products are above ``low``, or so near that float32 cannot tell."""
        # A bound that float32 cannot hold is rounded down.
        bound = np.nextafter(np.float32(low), np.float32(-np.inf))
        if self._device:
            # Compared where they are: a quarter of the bytes has to come back.
            on_device: NDArray[np.bool_] = (self._multiply(a, b) > float(bound)).cpu().numpy()
            return on_device
        products = self(a, b)
        if len(self._above) < products.size:
            self._above = np.empty(products.size, np.bool_)
        return np.greater(products, bound, out=self._above[: products.size].reshape(products.shape))

    def top(
        self, a: Rows, b: Any, k: int, margin: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs (i, j) that may be among the k best of their row, sorted by i and j.

        ``margin`` bounds the error of a product (`slack`). The k largest products are exactly at
        least the k-th less one margin, so a row of the k best is at least the k-th less two.
        """
        if self._device:
            products = self._multiply(a, b)
            bars = products.topk(k, dim=1).values[:, -1:] - 2 * margin
            i, j = (products >= bars).nonzero(as_tuple=True)
            return i.cpu().numpy(), j.cpu().numpy()
        products = self(a, b)
        if len(self._sorted) < products.size:
            self._sorted = np.empty(products.size, np.float32)
        copy = self._sorted[: products.size].reshape(products.shape)
        np.copyto(copy, products)
        copy.partition(-k, axis=1)
        bars = copy[:, -k, None] - np.float32(2 * margin)
        return np.divmod(np.flatnonzero(products >= bars), products.shape[1])


def _tensor(rows: Any) -> Any:
    import torch

    if isinstance(rows, torch.Tensor):
        return rows
    # torch warns of memory that it must not write, such as that of a mapped file.
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())
