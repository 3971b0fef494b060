"""The k nearest rows, exact, ties to the lowest id; lists of partitions merge to the same.

Shapes: q queries, n base rows, k neighbors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.neighbors.products import (
    FaissProduct,
    TileProduct,
    check_backend,
    exact_scores,
    slack,
    usable_rows,
)

__all__ = ["Neighbors", "merge_top_k", "top_k"]

_PRODUCT_BYTES = 1 << 26  # of one tile: some queries times all base rows


@dataclass(frozen=True)
class Neighbors:
    """Per query the k best base rows, best first; fewer are padded with id -1, score -inf."""

    ids: NDArray[np.int64]  # [q, k]
    scores: NDArray[np.float32]  # [q, k]


def top_k(
    queries: NDArray[Any],
    base: NDArray[Any],
    *,
    k: int,
    backend: str = "numpy",
    device: str = "cpu",
) -> Neighbors:
    """Find the k base rows with the largest inner product for every query.

    The back end proposes every row whose float32 product may be among the k best; proposals are
    scored again by `exact_scores`. So the result, sorted by (-score, id), is independent of tiles,
    threads and back end.

    Parameters
    ----------
    queries, base : ndarray
        ``[q, d]`` and ``[n, d]``, float32 or float16. Base rows that are zero or not finite are
        no query's neighbor; such queries have none.
    k : int
        At least 1; may exceed n.
    backend, device : str
        As in `join_above`.

    Raises
    ------
    UsageError
        If k is below 1, the back end is unknown, or is FAISS and not installed.
    """
    if k < 1:
        raise UsageError(what=f"k is {k}", where="top_k", do="give 1 or more")
    check_backend(backend, "top_k")
    q, b = (np.ascontiguousarray(rows, np.float32) for rows in (queries, base))
    asks, ids = np.flatnonzero(usable_rows(q)), np.flatnonzero(usable_rows(b))
    b = b[ids] if len(ids) < len(b) else b
    best = _padded(len(q), k)
    if not len(b):
        return best
    product = FaissProduct() if backend == "faiss" else TileProduct(backend, device)
    margin = slack(q[asks], b)
    placed = product.place(b)
    step = max(1, _PRODUCT_BYTES // (4 * len(b)))
    for start in range(0, len(asks), step):
        tile = q[asks[start : start + step]]
        rows, columns = product.top(tile, placed, min(k, len(b)), margin)
        scores = exact_scores(tile, b, rows, columns)
        part = _as_lists(rows, ids[columns], scores, len(tile), k)
        best.ids[asks[start : start + step]] = part.ids
        best.scores[asks[start : start + step]] = part.scores
    return best


def merge_top_k(lists: Sequence[Neighbors]) -> Neighbors:
    """Merge lists of the same queries over disjoint base rows (ids already global).

    The result is as if one search had seen all base rows; k is that of the lists.
    """
    k = lists[0].ids.shape[1]
    ids = np.concatenate([part.ids for part in lists], axis=1)
    scores = np.concatenate([part.scores for part in lists], axis=1)
    # By (-score, id); padding (id -1) comes last.
    last = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    order = np.lexsort((last, -scores), axis=1)[:, :k]
    return Neighbors(
        np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    )


def _padded(num: int, k: int) -> Neighbors:
    return Neighbors(np.full((num, k), -1, np.int64), np.full((num, k), -np.inf, np.float32))


def _as_lists(
    rows: NDArray[np.int64], ids: NDArray[np.int64], scores: NDArray[np.float32], num: int, k: int
) -> Neighbors:
    """Turn flat candidates into one padded list per query, best first, at most k each."""
    order = np.lexsort((ids, -scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    starts = np.searchsorted(rows, np.arange(num))
    rank = np.arange(len(rows)) - starts[rows]
    keep = rank < k
    lists = _padded(num, k)
    lists.ids[rows[keep], rank[keep]] = ids[keep]
    lists.scores[rows[keep], rank[keep]] = scores[keep]
    return lists
