"""The exact thresholded join: every pair whose inner product is above a threshold.

Not top-k: an image with more copies than k would lose edges, and selecting k costs more than
comparing. Shapes: n, m rows; d dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import (
    FaissProduct,
    Rows,
    TileProduct,
    check_backend,
    exact_scores,
    slack,
    usable_rows,
)

__all__ = ["Edges", "join_above"]

# A tile of 1024 x 2048 float32 is 8 MiB: it stays in a shared cache while it is compared.
_TILE_ROWS = 1024
_TILE_COLUMNS = 2048


@dataclass(frozen=True)
class Edges:
    """Pairs above a threshold, sorted by (i, j)."""

    i: NDArray[np.int64]  # rows of a
    j: NDArray[np.int64]  # rows of b, or of a with i < j
    similarity: NDArray[np.float32]
    num_excluded: int = 0  # rows left out: zero or not finite

    def __len__(self) -> int:
        return len(self.i)


def join_above(
    a: NDArray[Any],
    b: NDArray[Any] | None = None,
    *,
    threshold: float,
    backend: str = "numpy",
    device: str = "cpu",
) -> Edges:
    """Find all pairs of rows with an inner product above ``threshold`` (strictly).

    Parameters
    ----------
    a : ndarray
        ``[n, d]``, float32 or float16; unit rows make the inner product a cosine.
    b : ndarray, optional
        ``[m, d]``; None joins ``a`` with itself, each pair once, i < j.
    threshold : float
        Pairs above it are returned; equality is not above.
    backend : str
        ``numpy``, ``torch`` or ``faiss``; the edges are the same.
    device : str
        Where torch multiplies, such as ``cuda:0``; `backend_for` names the back end that fits.
        Other back ends ignore it.

    Returns
    -------
    Edges
        Independent of tiles, threads and back end; memory is the inputs, a tile and the edges.

    Raises
    ------
    UsageError
        If the back end is unknown, or is FAISS and not installed.
    """
    check_backend(backend, "join_above")
    is_self = b is None
    left = np.ascontiguousarray(a, np.float32)
    right = left if b is None else np.ascontiguousarray(b, np.float32)
    rows, columns = usable_rows(left), usable_rows(right)
    excluded = int((~rows).sum()) + (0 if is_self else int((~columns).sum()))
    if excluded:
        left = np.where(rows[:, None], left, np.float32(0))
        right = left if is_self else np.where(columns[:, None], right, np.float32(0))
    low = threshold - slack(left, right)
    if backend == "faiss":
        candidates = FaissProduct().pairs_above(left, right, low)
    else:
        candidates = _tiled_candidates(left, right, low, backend, device, is_self=is_self)
    parts = []
    for i, j in candidates:
        if is_self:
            i, j = i[i < j], j[i < j]  # noqa: PLW2901 - each pair once
        keep = rows[i] & columns[j]
        i, j = i[keep], j[keep]  # noqa: PLW2901
        scores = exact_scores(left, right, i, j)
        above = scores > np.float32(threshold)
        parts.append((i[above], j[above], scores[above]))
    return _sorted(parts, excluded)


def _tiled_candidates(
    left: Rows, right: Rows, low: float, backend: str, device: str, *, is_self: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs above ``low``, or too close to it for float32, tile by tile."""
    product = TileProduct(backend, device)
    for top in range(0, len(left), _TILE_ROWS):
        rows = left[top : top + _TILE_ROWS]
        # The upper triangle of a self join starts at its own rows.
        for start in range(top if is_self else 0, len(right), _TILE_COLUMNS):
            above = product.above(rows, right[start : start + _TILE_COLUMNS], low)
            pairs = np.flatnonzero(above)
            if len(pairs):
                i, j = np.divmod(pairs, above.shape[1])
                yield i + top, j + start


def _sorted(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]], excluded: int
) -> Edges:
    if not parts:
        empty = np.zeros(0, np.int64)
        return Edges(empty, empty, np.zeros(0, np.float32), excluded)
    i, j, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return Edges(i[order], j[order], similarity[order], excluded)
