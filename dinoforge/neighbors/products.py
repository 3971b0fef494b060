"""Inner products by NumPy, torch or FAISS, and the one formula by which a pair is scored.

Products propose candidates; every one is scored again. Shapes: n, m rows; d dimensions.
"""

import importlib.metadata
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = [
    "FaissProduct",
    "Rows",
    "TileProduct",
    "backend_for",
    "check_backend",
    "exact_scores",
    "refuse_two_faiss",
    "require_faiss",
    "slack",
    "usable_rows",
]

Rows = NDArray[np.float32]

BACKENDS = ("numpy", "torch", "faiss")

# Fits in the cache: 4 MiB at d = 512. 65,536 pairs at once took nine times as long.
_PAIRS_AT_ONCE = 1 << 10
_FAISS_QUERIES_AT_ONCE = 4096


def check_backend(backend: str, where: str) -> None:
    """Refuse an unknown back end."""
    if backend not in BACKENDS:
        raise UsageError(
            what=f"unknown back end `{backend}`",
            where=where,
            do=f"choose one of {', '.join(BACKENDS)}",
        )


def backend_for(device: str) -> str:
    """Name the fastest back end of a device: torch except on a CPU."""
    return "numpy" if device == "cpu" else "torch"


def usable_rows(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows may take part: finite and not zero (NaN would compare as unique)."""
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
    """Multiplies tiles, ``[n, d] x [m, d] -> [n, m]``, in NumPy or on a torch device.

    NumPy's OpenBLAS does 92 to 96 GFLOP/s on a Zen 4 core where torch's product does 80 to 88;
    torch is for CUDA devices. A result is valid until the next call.
    """

    def __init__(self, backend: str, device: str) -> None:
        self._device = device if backend == "torch" else ""
        # Allocated once and reused: fresh pages cost a tenth of the join.
        self._buffers: dict[str, NDArray[Any]] = {}

    def place(self, rows: Rows) -> Any:
        """Return rows that many calls multiply with, moved to the device once."""
        if not self._device:
            return rows
        import torch

        # torch warns about memory that it must not write, such as that of a mapped file.
        return torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(self._device)

    def above(self, a: Rows, b: Rows, low: float) -> NDArray[np.bool_]:
        """Return which products are above ``low``, or too close to it for float32."""
        # A bound that float32 cannot hold is rounded down.
        bound = np.nextafter(np.float32(low), np.float32(-np.inf))
        if self._device:
            # Compared on the device: a quarter of the bytes to copy back.
            products = self.place(a) @ self.place(b).T
            on_device: NDArray[np.bool_] = (products > float(bound)).cpu().numpy()
            return on_device
        tile = self._multiply(a, b)
        return np.greater(tile, bound, out=self._buffer("above", tile.shape, np.bool_))

    def top(
        self, a: Rows, b: Any, k: int, margin: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs (i, j) that may be among the k best of their row, sorted by i and j.

        ``b`` comes from `place`; ``margin`` bounds the error of a product (`slack`). The k largest
        products are exactly at least the k-th minus one margin, so a row of the k best has a
        product of at least the k-th minus two.
        """
        if self._device:
            products = self.place(a) @ b.T
            bars = products.topk(k, dim=1).values[:, -1:] - 2 * margin
            i, j = (products >= bars).nonzero(as_tuple=True)
            return i.cpu().numpy(), j.cpu().numpy()
        tile = self._multiply(a, b)
        copy = self._buffer("sorted", tile.shape, np.float32)
        np.copyto(copy, tile)
        copy.partition(-k, axis=1)
        bars = copy[:, -k, None] - np.float32(2 * margin)
        return np.divmod(np.flatnonzero(tile >= bars), tile.shape[1])

    def _multiply(self, a: Rows, b: Rows) -> NDArray[np.float32]:
        shape = (len(a), len(b))
        return np.matmul(a, b.T, out=self._buffer("products", shape, np.float32))

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size = math.prod(shape)
        if len(self._buffers.get(name, ())) < size:
            self._buffers[name] = np.empty(size, dtype)
        return self._buffers[name][:size].reshape(shape)


def refuse_two_faiss() -> None:
    """Raise `UsageError` if both FAISS packages are installed: they overwrite each other's files.

    Takes milliseconds and imports neither.
    """
    if all(any(importlib.metadata.distributions(name=name)) for name in ("faiss-cpu", "faiss-gpu")):
        raise UsageError(
            what="faiss-cpu and faiss-gpu are both installed and overwrite each other",
            where="this Python environment",
            do="pip uninstall --yes faiss-cpu faiss-gpu, then pip install faiss-gpu "
            "(or faiss-cpu without a GPU)",
        )


def require_faiss() -> Any:
    """Import FAISS.

    Raises
    ------
    UsageError
        If none is installed (with the pip command), or both packages are.
    """
    refuse_two_faiss()
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            what="FAISS is not installed",
            where="this Python environment",
            do='pip install "dinoforge[cpu]" (or "dinoforge[gpu]" with a GPU)',
        ) from error
    return faiss


class FaissProduct:
    """Candidates by FAISS, as `TileProduct` proposes them."""

    def place(self, rows: Rows) -> Any:
        """Return an index of rows that many calls compare with."""
        index = require_faiss().IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index

    def pairs_above(
        self, a: Rows, b: Rows, low: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield pairs with a float32 inner product above ``low``."""
        index = self.place(b)
        for top in range(0, len(a), _FAISS_QUERIES_AT_ONCE):
            limits, _, ids = index.range_search(a[top : top + _FAISS_QUERIES_AT_ONCE], low)
            counts = np.diff(limits.astype(np.int64))
            yield np.repeat(np.arange(len(counts)), counts) + top, ids.astype(np.int64)

    def top(
        self, a: Rows, b: Any, k: int, margin: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs that may be among the k best of their row; see `TileProduct.top`."""
        nearest, _ = b.search(a, k)
        bars = nearest[:, -1] - 2 * margin
        columns = [b.range_search(a[i : i + 1], float(bar))[2] for i, bar in enumerate(bars)]
        rows = np.repeat(np.arange(len(a)), [len(ids) for ids in columns])
        return rows, np.concatenate(columns).astype(np.int64)
