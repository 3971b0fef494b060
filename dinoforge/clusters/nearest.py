"""The nearest centroid of every row: exact, so that it depends on no tile, thread or device.

Shapes: n rows; d dimensions; K centroids.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import Rows, TileProduct, backend_for, exact_scores, slack

__all__ = ["NearestCentroid", "assign_rows"]

Ids = NDArray[np.int64]

_TILE_ROWS = 2048  # of one product
_DIFFERENCES_AT_ONCE = 256  # rows: their differences stay in the cache


class NearestCentroid:
    """Centroids to which rows are assigned; made once for many rows.

    ``|x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)``: the search for the largest inner product of rows
    with a 1 appended and centroids with ``-|c|^2 / 2``. Float32 products decide where the largest
    leads by more than their error; other candidates are scored again, and ties go to the lowest.
    """

    def __init__(self, centroids: Rows, device: str = "cpu") -> None:
        halves = -0.5 * np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64)
        self._centroids = centroids
        self._base = np.column_stack([centroids, halves.astype(np.float32)])
        self._longest = self._base[[np.einsum("kd,kd->k", self._base, self._base).argmax()]]
        self._product = TileProduct(backend_for(device), device)
        self._placed: Any = self._product.place(self._base)
        self._asks = np.ones((_TILE_ROWS, self._base.shape[1]), np.float32)  # reused

    def assign(self, rows: Rows) -> tuple[Ids, NDArray[np.float32]]:
        """Return the nearest centroid of every row and the squared distance to it."""
        labels, squares = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
        for low in range(0, len(rows), _TILE_ROWS):
            part = slice(low, low + _TILE_ROWS)
            labels[part] = self._nearest(rows[part])
        for low in range(0, len(rows), _DIFFERENCES_AT_ONCE):
            part = slice(low, low + _DIFFERENCES_AT_ONCE)
            apart = rows[part] - self._centroids[labels[part]]
            squares[part] = np.einsum("nd,nd->n", apart, apart)
        return labels, squares

    def _nearest(self, rows: Rows) -> Ids:
        asks = self._asks[: len(rows)]
        asks[:, :-1] = rows
        nearest, leads = self._product.largest(asks, self._placed)
        margin = slack(asks, self._longest)
        unsure = np.flatnonzero(leads <= 2 * margin)
        if len(unsure):
            at, columns, _ = self._product.top(asks[unsure], self._placed, 1, margin)
            scores = exact_scores(asks[unsure], self._base, at, columns)
            order = np.lexsort((columns, -scores, at))
            _, first = np.unique(at[order], return_index=True)
            nearest[unsure] = columns[order[first]]
        return nearest


def assign_rows(
    rows: Rows, centroids: Rows, *, device: str = "cpu"
) -> tuple[Ids, NDArray[np.float32]]:
    """Find the nearest centroid of every row, ties to the lowest, and the squared distances."""
    return NearestCentroid(centroids, device).assign(rows)
