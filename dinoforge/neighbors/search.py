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
    exact_lists,
    slack,
    usable_rows,
)

__all__ = ["Neighbors", "merge_top_k", "top_k"]

# One tile is some queries times all base rows. Its bytes bound the candidates, of which there are
# as many if all rows are copies; of few queries, a product takes up to a fifth longer.
_PRODUCT_BYTES = 1 << 28
_QUERIES_AT_ONCE = 1536
_SIGN = np.uint32(1 << 31)


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
    rescore: bool = True,
) -> Neighbors:
    """Find the k base rows with the largest inner product for every query.

    The back end proposes every row whose float32 product may be among the k best; proposals are
    scored again by `exact_lists`. So the result, sorted by (-score, id), is independent of tiles,
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
    rescore : bool
        False: score by the float32 products themselves, at the cost of a plain search; their last
        bits depend on the machine, which no vote of neighbors notices.

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
    margin = slack(q[asks], b) if rescore else 0.0
    placed = product.place(b)
    step = min(_QUERIES_AT_ONCE, max(1, _PRODUCT_BYTES // (4 * len(b))))
    for start in range(0, len(asks), step):
        tile = q[asks[start : start + step]]
        rows, columns, products = product.top(tile, placed, min(k, len(b)), margin)
        counts = np.bincount(rows, minlength=len(tile))
        lists, scores = (_as_lists(rows, counts, cells) for cells in (columns, products))
        if rescore:
            scores = exact_lists(tile, b, lists, counts)
        else:
            scores[np.arange(lists.shape[1]) >= counts[:, None]] = -np.inf
        part = _best_lists(lists, scores, min(k, len(b)))
        width = part.ids.shape[1]
        best.ids[asks[start : start + step], :width] = ids[part.ids]
        best.scores[asks[start : start + step], :width] = part.scores
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
    rows: NDArray[np.int64], counts: NDArray[np.int64], cells: NDArray[Any]
) -> NDArray[Any]:
    """Place the cells of every row, which are sorted by row, in one row of a table."""
    lists = np.zeros((len(counts), counts.max()), cells.dtype)
    lists[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = cells
    return lists


def _best_lists(lists: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Neighbors:
    """List the best k of candidates, ids and scores ``[n, at least k]``, best first."""
    # Adding 0 makes -0 the same score as 0.
    bits = (scores + np.float32(0)).view(np.uint32)
    # Whole numbers in the order of (-score, column): sorting numbers is ten times as fast as
    # sorting positions by two keys.
    ascending = np.where(bits >> 31, ~bits, bits | _SIGN)
    keys = (~ascending).astype(np.uint64) << 32 | lists.astype(np.uint64)
    keys.sort(axis=1)
    keys = keys[:, :k]
    ascending = ~(keys >> 32).astype(np.uint32)
    scores = np.where(ascending >> 31, ascending ^ _SIGN, ~ascending).view(np.float32)
    return Neighbors((keys & np.uint64(0xFFFFFFFF)).astype(np.int64), scores)
