"""The exact thresholded join: every pair whose inner product is above a threshold.

Not top-k: an image with more copies than k would lose edges, and selecting k costs more than
comparing. Shapes: n, m rows; d dimensions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.filter_choice import choose_filter
from dinoforge.neighbors.filters import Codes, PairFilter
from dinoforge.neighbors.products import (
    FaissProduct,
    Rows,
    TileProduct,
    check_backend,
    exact_scores,
    slack,
    usable_rows,
)

__all__ = ["Edges", "JoinRows", "join_above", "join_rows", "prepare_rows"]

_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

# A tile of 1024 x 2048 float32 is 8 MiB: it stays in a shared cache while it is compared.
_TILE_ROWS = 1024
_TILE_COLUMNS = 2048
# Share of a tile: if a filter lets more pass, plain products find the candidates of this tile.
_MOST_CANDIDATES = 1 / 64


@dataclass(frozen=True)
class Edges:
    """Pairs above a threshold, sorted by (i, j)."""

    i: NDArray[np.int64]  # rows of a
    j: NDArray[np.int64]  # rows of b, or of a with i < j
    similarity: NDArray[np.float32]
    num_excluded: int = 0  # rows left out: zero or not finite

    def __len__(self) -> int:
        return len(self.i)


@dataclass(frozen=True)
class JoinRows:
    """Rows ready to be joined."""

    rows: Rows  # unusable rows are zero
    is_usable: NDArray[np.bool_]
    codes: Codes
    pair_filter: PairFilter


def join_above(
    a: NDArray[Any],
    b: NDArray[Any] | None = None,
    *,
    threshold: float,
    backend: str = "numpy",
    device: str = "cpu",
    pair_filter: PairFilter | None = None,
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
    pair_filter : PairFilter, optional
        How candidates are found; None chooses by estimated cost (`choose_filter`).

    Returns
    -------
    Edges
        Independent of tiles, threads, back end and filter; memory is up to four times the
        inputs, a tile and the edges.

    Raises
    ------
    UsageError
        If the back end is unknown, or is FAISS and not installed.
    """
    check_backend(backend, "join_above")
    if pair_filter is None:
        num = len(a) ** 2 // 2 if b is None else len(a) * len(b)
        pair_filter = choose_filter(
            a, threshold=threshold, num_products=num, backend=backend, device=device
        )
    left = prepare_rows(a, pair_filter)
    right = None if b is None else prepare_rows(b, pair_filter)
    if backend != "faiss":
        return join_rows(left, right, threshold=threshold)
    other = right or left
    low = threshold - slack(left.rows, other.rows)
    candidates = FaissProduct().pairs_above(left.rows, other.rows, low)
    return _scored(candidates, left, right, threshold)


def prepare_rows(rows: NDArray[Any], pair_filter: PairFilter) -> JoinRows:
    """Check and encode rows, float32 or float16 ``[n, d]``, once for many calls of `join_rows`."""
    rows = np.ascontiguousarray(rows, np.float32)
    is_usable = usable_rows(rows)
    if not is_usable.all():
        rows = np.where(is_usable[:, None], rows, np.float32(0))
    return JoinRows(rows, is_usable, pair_filter.encode(rows), pair_filter)


def join_rows(a: JoinRows, b: JoinRows | None = None, *, threshold: float) -> Edges:
    """Join rows prepared by one filter; see `join_above`."""
    return _scored(_tiled_candidates(a, b, threshold), a, b, threshold)


def _tiled_candidates(a: JoinRows, b: JoinRows | None, threshold: float) -> Iterator[_Pairs]:
    """Yield the pairs that the filter lets pass, tile by tile."""
    other = b or a
    pair_filter, left, right = a.pair_filter, a.codes.values, other.codes.values
    bound = pair_filter.bound(a.codes, other.codes, threshold)
    plain: tuple[TileProduct, float] | None = None
    for top in range(0, len(left), _TILE_ROWS):
        rows = slice(top, top + _TILE_ROWS)
        # The upper triangle of a self join starts at its own rows.
        for start in range(top if b is None else 0, len(right), _TILE_COLUMNS):
            columns = slice(start, start + _TILE_COLUMNS)
            above = pair_filter.above(left[rows], right[columns], bound)
            pairs = np.flatnonzero(above)
            if len(pairs) > above.size * _MOST_CANDIDATES and left is not a.rows:
                # Scoring so many costs more than the product.
                plain = plain or (
                    TileProduct("numpy", "cpu"),
                    threshold - slack(a.rows, other.rows),
                )
                pairs = np.flatnonzero(plain[0].above(a.rows[rows], other.rows[columns], plain[1]))
            if len(pairs):
                i, j = np.divmod(pairs, above.shape[1])
                yield i + top, j + start


def _scored(
    candidates: Iterable[_Pairs], a: JoinRows, b: JoinRows | None, threshold: float
) -> Edges:
    """Keep candidates whose exact score is above the threshold."""
    other = b or a
    parts = []
    for i, j in candidates:
        keep = a.is_usable[i] & other.is_usable[j]
        if b is None:
            keep &= i < j  # each pair once
        i, j = i[keep], j[keep]  # noqa: PLW2901
        scores = exact_scores(a.rows, other.rows, i, j)
        above = scores > np.float32(threshold)
        parts.append((i[above], j[above], scores[above]))
    excluded = sum(int((~rows.is_usable).sum()) for rows in ([a] if b is None else [a, b]))
    return _sorted(parts, excluded)


def _sorted(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]], excluded: int
) -> Edges:
    if not parts:
        empty = np.zeros(0, np.int64)
        return Edges(empty, empty, np.zeros(0, np.float32), excluded)
    i, j, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return Edges(i[order], j[order], similarity[order], excluded)
