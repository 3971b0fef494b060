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
    Rows,
    TileProduct,
    check_backend,
    exact_scores,
    prepare,
    slack,
    usable_rows,
)

__all__ = ["Neighbors", "merge_top_k", "top_k"]

_TILE_QUERIES = 512
_TILE_BASE = 4096


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

    Parameters
    ----------
    queries, base : ndarray
        ``[q, d]`` and ``[n, d]``, float32 or float16. Base rows that are zero or not finite are
        nobody's neighbor; such queries have none.
    k : int
        At least 1; may exceed n.
    backend : str
        ``numpy``, ``torch`` or ``faiss``; the results are the same.
    device : str
        Where torch multiplies, such as ``cuda:0``; `backend_for` names the back end that fits.
        Other back ends leave it unread.

    Returns
    -------
    Neighbors
        Sorted by (-score, id); independent of tiles, threads and back end.

    Raises
    ------
    UsageError
        If k is below 1, the back end is unknown, or is FAISS and not installed.
    """
    if k < 1:
        raise UsageError(what=f"k is {k}", where="top_k", do="give 1 or more")
    check_backend(backend, "top_k")
    q, b = prepare(queries), prepare(base)
    can_ask, can_answer = usable_rows(q), usable_rows(b)
    q = np.where(can_ask[:, None], q, np.float32(0))
    ids = np.flatnonzero(can_answer)
    b = b[ids] if len(ids) < len(b) else b
    if backend == "faiss":
        from dinoforge.neighbors.faiss_backend import search

        found = search(q, b, k)
    else:
        product = TileProduct(backend, device)
        parts = [
            _search_tile(q[top : top + _TILE_QUERIES], b, k, product)
            for top in range(0, len(q), _TILE_QUERIES)
        ]
        found = _stack(parts, k)
    at, scores = found
    mapped = np.where(at >= 0, ids[at] if len(ids) else at, -1)
    mapped[~can_ask] = -1
    scores[~can_ask] = -np.inf
    return Neighbors(mapped, scores)


def merge_top_k(lists: Sequence[Neighbors]) -> Neighbors:
    """Merge lists of the same queries over disjoint base rows (ids already global).

    Returns
    -------
    Neighbors
        As if one search had seen all base rows; k is that of the lists.
    """
    k = lists[0].ids.shape[1]
    ids = np.concatenate([part.ids for part in lists], axis=1)
    scores = np.concatenate([part.scores for part in lists], axis=1)
    order = _best_first(ids, scores)[:, :k]
    return Neighbors(
        np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    )


def _best_first(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order each row by (-score, id); padding (id -1) comes last."""
    last = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    by_id = np.argsort(last, axis=1, kind="stable")
    by_score = np.argsort(-np.take_along_axis(scores, by_id, axis=1), axis=1, kind="stable")
    return np.take_along_axis(by_id, by_score, axis=1)


def _search_tile(
    q: Rows, b: Rows, k: int, product: TileProduct
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Search one tile of queries through all base tiles with a rising bar."""
    margin = slack(q, b)
    best = Neighbors(np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32))
    for start in range(0, len(b), _TILE_BASE):
        tile = product(q, b[start : start + _TILE_BASE])
        # Whoever is exactly among the k best is above this bar in float32, too.
        bar = best.scores[:, -1]
        if tile.shape[1] >= k and np.isneginf(bar).any():
            local = np.partition(tile, tile.shape[1] - k, axis=1)[:, tile.shape[1] - k]
            bar = np.maximum(bar, local - np.float32(margin))
        rows, columns = np.nonzero(tile >= (bar - np.float32(margin))[:, None])
        if not len(rows):
            continue
        scores = exact_scores(q, b, rows, columns + start)
        best = merge_top_k([best, _as_lists(rows, columns + start, scores, len(q), k)])
    return best.ids, best.scores


def _as_lists(
    rows: NDArray[np.int64],
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    num: int,
    k: int,
) -> Neighbors:
    """Turn flat candidates into a padded list a query, best first, at most k each."""
    order = np.lexsort((ids, -scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    starts = np.searchsorted(rows, np.arange(num))
    rank = np.arange(len(rows)) - starts[rows]
    keep = rank < k
    out = Neighbors(np.full((num, k), -1, np.int64), np.full((num, k), -np.inf, np.float32))
    out.ids[rows[keep], rank[keep]] = ids[keep]
    out.scores[rows[keep], rank[keep]] = scores[keep]
    return out


def _stack(
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not parts:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    ids, scores = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(scores)
