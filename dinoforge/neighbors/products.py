"""Inner products by NumPy, torch or FAISS, and the one formula by which a pair is scored.

Products propose candidates; every one is scored again. Shapes: n, m rows; d dimensions.
"""

import importlib.metadata
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
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
    "exact_lists",
    "exact_scores",
    "multiplies_int8",
    "multiply_int8",
    "refuse_two_faiss",
    "require_faiss",
    "slack",
    "usable_rows",
]

Rows = NDArray[np.float32]
Products = NDArray[np.float32]
_Cells = tuple[NDArray[np.int64], NDArray[np.int64], Products]  # rows, columns, values

BACKENDS = ("numpy", "torch", "faiss")

# Fits in the cache: 65,536 pairs at once took nine times as long, 1,024 a third longer.
_PAIRS_AT_ONCE = 64
_FAISS_QUERIES_AT_ONCE = 4096
_COLUMNS_AT_ONCE = 16384  # of a search for the k largest of a row
_COLUMNS_OF_LARGEST = 2048  # of a search for the largest alone
_GROUPS = 1024  # of these columns
_MANY = 64  # largest of a row; for so many, every cell is compared


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
    float32; NumPy's ``einsum`` has one order for one d, whatever else it is given.
    """
    scores = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left, right = (x[at[part]].astype(np.float64) for x, at in ((a, i), (b, j)))
        scores[part] = np.einsum("nd,nd->n", left, right)
    return scores


def exact_lists(
    a: Rows, b: Rows, lists: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Score the first ``counts[i]`` rows of b that ``lists[i]`` names with row i of a.

    Bit by bit as `exact_scores`, in half its time: a row of a is converted once. ``lists`` are
    ``[n, k]``; beyond the counts the score is -inf.
    """
    scores = np.full(lists.shape, -np.inf, np.float32)
    step = max(1, 2 * _PAIRS_AT_ONCE // max(1, lists.shape[1]))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        wide = a[rows].astype(np.float64)
        longest = int(counts[rows].max())
        for first in range(0, longest, 2 * _PAIRS_AT_ONCE):
            columns = slice(first, min(first + 2 * _PAIRS_AT_ONCE, longest))
            others = b.take(lists[rows, columns], axis=0, mode="clip").astype(np.float64)
            scores[rows, columns] = np.einsum("nkd,nd->nk", others, wide)
    scores[np.arange(lists.shape[1]) >= counts[:, None]] = -np.inf
    return scores


def slack(a: Rows, b: Rows) -> float:
    """Bound how far a float32 product may be from the exact one: d * eps * |a| * |b|."""
    if not len(a) or not len(b):
        return 0.0
    norms = [float(np.einsum("nd,nd->n", x, x).max()) ** 0.5 for x in (a, b)]
    return a.shape[1] * 2.0**-23 * norms[0] * norms[1]


@cache
def _cpu() -> str:
    """Describe the first processor as Linux does; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return ""


def multiplies_int8() -> bool:
    """Return whether the processor multiplies int8 several times as fast as float32 (VNNI)."""
    return not {"avx512_vnni", "amx_int8"}.isdisjoint(_cpu().split())


def multiply_int8(
    a: NDArray[np.int8], b: NDArray[np.int8], out: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Multiply ``[n, c] x [m, c] -> [n, m]`` by torch, exactly.

    c is a multiple of 8: torch 2.13 gives wrong products for c = 1.
    """
    import torch

    product = torch._int_mm  # noqa: SLF001 - torch has no public product of whole numbers
    product(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))
    return out


class TileProduct:
    """Multiplies tiles, ``[n, d] x [m, d] -> [n, m]``, in NumPy or on a torch device.

    NumPy's OpenBLAS does 92 to 96 GFLOP/s on a Zen 4 core where torch's product does 80 to 88. On
    a Sapphire Rapids core it does 142 and torch's MKL 164: on Intel, torch multiplies if the
    process has it. A result is valid until the next call.
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
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Products]:
        """Return pairs (i, j) that may be among the k best of their row, sorted by i, and products.

        ``b`` comes from `place`; ``margin`` bounds the error of a product (`slack`). The k largest
        products are exactly at least the k-th minus one margin, so a row of the k best has a
        product of at least the k-th minus two.
        """
        if self._device:
            products = self.place(a) @ b.T
            bars = products.topk(k, dim=1).values[:, -1:] - 2 * margin
            i, j = (products >= bars).nonzero(as_tuple=True)
            return i.cpu().numpy(), j.cpu().numpy(), products[i, j].cpu().numpy()
        best = _Largest(len(a), k, margin)
        # Blocks stay in the cache, and the bar rises from one to the next.
        width = max(_COLUMNS_AT_ONCE, 8 * k)
        for start in range(0, len(b), width):
            best.add(self._multiply(a, b[start : start + width]), start)
        return best.pairs()

    def largest(self, a: Rows, b: Any) -> tuple[NDArray[np.int64], Products]:
        """Return the column of the largest product of every row, and by how much it leads.

        ``b`` comes from `place`. The lead over the second largest has the error of two products; a
        tie has none.
        """
        if self._device:
            products = self.place(a) @ b.T
            best, columns = products.max(dim=1, keepdim=True)
            second = products.scatter_(1, columns, -math.inf).max(dim=1, keepdim=True).values
            return columns[:, 0].cpu().numpy(), (best - second)[:, 0].cpu().numpy()
        rows = np.arange(len(a))
        columns = np.zeros(len(a), np.int64)
        best = np.full(len(a), -np.inf, np.float32)
        second = best.copy()
        for start in range(0, len(b), _COLUMNS_OF_LARGEST):
            products = self._multiply(a, b[start : start + _COLUMNS_OF_LARGEST])
            at = products.argmax(axis=1)
            value = products[rows, at]
            products[rows, at] = -np.inf
            loser = np.minimum(value, best)
            second = np.maximum(second, np.maximum(loser, products.max(axis=1)))
            columns = np.where(value > best, at + start, columns)
            best = np.maximum(best, value)
        return columns, best - second

    def _multiply(self, a: Rows, b: Rows) -> NDArray[np.float32]:
        products = self._buffer("products", (len(a), len(b)), np.float32)
        torch = sys.modules.get("torch")
        if (
            torch is None
            or "GenuineIntel" not in _cpu()
            or not (a.flags.writeable and b.flags.writeable)
        ):
            return np.matmul(a, b.T, out=products)
        torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(products))
        return products

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size = math.prod(shape)
        if len(self._buffers.get(name, ())) < size:
            self._buffers[name] = np.empty(size, dtype)
        return self._buffers[name][:size].reshape(shape)


class _Largest:
    """Collects the cells that may be among the k largest of their row, from blocks of columns.

    In a block, columns a fixed distance apart are one group. The k-th largest maximum of the groups
    is at most the k-th largest cell, and so is that of the cells kept before: this is the bar.
    """

    def __init__(self, num_rows: int, k: int, margin: float) -> None:
        self._largest = np.full((num_rows, k), -np.inf, np.float32)
        self._margin = np.float32(2 * margin)
        self._kept: list[_Cells] = []

    def add(self, block: NDArray[np.float32], first_column: int) -> None:
        """Take the cells of a block, ``[rows, columns]``, that are above the bar."""
        k = self._largest.shape[1]
        rows, columns, values = (self._few_cells if k < _MANY else self._many_cells)(block)
        self._kept.append((rows, columns + first_column, values))
        together = np.hstack([self._largest, _as_table(rows, values, len(block))])
        self._largest = _k_largest(together, k)

    def _few_cells(self, block: NDArray[np.float32]) -> _Cells:
        """Open the groups whose maximum is above the bar."""
        num, k = block.shape[1], self._largest.shape[1]
        maxima = self._maxima(block)
        distance = maxima.shape[1]
        bars = self._bars()
        is_hit = maxima >= bars if self._kept else None
        if k <= distance and (is_hit is None or np.count_nonzero(is_hit) > 2 * k * len(block)):
            bars = np.maximum(bars, self._bars_of(maxima))  # the first block, or rising products
            is_hit = maxima >= bars
        hits = np.flatnonzero(maxima >= bars if is_hit is None else is_hit)
        rows, groups = np.divmod(hits, distance)
        starts = np.arange(0, num, distance)
        cells = (rows * num + groups)[:, None] + starts
        values = block.ravel().take(cells, mode="clip")
        is_above = values >= bars[rows]
        is_above[:, -1] &= groups + starts[-1] < num  # the last part is narrower
        rows, columns = np.divmod(cells[is_above], num)
        return rows, columns, values[is_above]

    def _many_cells(self, block: NDArray[np.float32]) -> _Cells:
        """Compare every cell with the bar: of so many groups most cells would be opened."""
        k = self._largest.shape[1]
        is_above = block >= self._bars() if self._kept else None
        if is_above is None or np.count_nonzero(is_above) > 2 * k * len(block):
            # The first block, or rising products.
            maxima = self._maxima(block)
            bars = self._bars_of(maxima) if k <= maxima.shape[1] else self._bars()
            is_above = block >= np.maximum(self._bars(), bars)
        cells = np.flatnonzero(is_above)
        rows, columns = np.divmod(cells, block.shape[1])
        return rows, columns, block.ravel().take(cells)

    def _maxima(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the maximum of every group of columns, ``[rows, groups]``."""
        num = block.shape[1]
        distance = min(num, max(_GROUPS, 2 * self._largest.shape[1]))
        whole = num // distance * distance
        maxima: NDArray[np.float32] = block[:, :whole].reshape(len(block), -1, distance).max(axis=1)
        rest = maxima[:, : num - whole]
        np.maximum(rest, block[:, whole:], out=rest)
        return maxima

    def _bars_of(self, maxima: NDArray[np.float32]) -> NDArray[np.float32]:
        k = self._largest.shape[1]
        bars: NDArray[np.float32] = _k_largest(maxima, k)[:, :1] - self._margin
        return bars

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Products]:
        """Return rows, columns and values of the cells above the last bar, sorted by row."""
        rows, columns, values = map(np.concatenate, zip(*self._kept, strict=True))
        is_above = values >= self._bars()[rows, 0]
        rows, columns, values = rows[is_above], columns[is_above], values[is_above]
        order = np.argsort(rows, kind="stable")
        return rows[order], columns[order], values[order]

    def _bars(self) -> NDArray[np.float32]:
        return self._largest.min(axis=1, keepdims=True) - self._margin


def _k_largest(table: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k largest cells of every row, the smallest of them first."""
    if k == 1:  # half the time of k-means with 1,000 clusters was the partition
        return table.max(axis=1, keepdims=True)
    return np.partition(table, -k, axis=1)[:, -k:]


def _as_table(
    rows: NDArray[np.int64], values: NDArray[np.float32], num_rows: int
) -> NDArray[np.float32]:
    """Place the values of each row, which is sorted, in one row of a table padded with -inf."""
    counts = np.bincount(rows, minlength=num_rows)
    table = np.full((num_rows, counts.max()), -np.inf, np.float32)
    table[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = values
    return table


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
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Products]:
        """Return the pairs that may be among the k best of their row; see `TileProduct.top`."""
        nearest, _ = b.search(a, k)
        bars = nearest[:, -1] - 2 * margin
        ranges = [b.range_search(a[i : i + 1], float(bar)) for i, bar in enumerate(bars)]
        rows = np.repeat(np.arange(len(a)), [len(ids) for _, _, ids in ranges])
        columns = np.concatenate([ids for _, _, ids in ranges]).astype(np.int64)
        return rows, columns, np.concatenate([values for _, values, _ in ranges])
