"""Weighted k-NN classification, exactly as published (DINOv2, section 7.1; Wu et al. 2018).

Ties are broken: equal similarity by the smaller bank index, equal votes by the smaller class.
Shapes: q queries, n bank rows, k neighbors, c classes, d dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.metrics.classification import top_classes
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import Neighbors, top_k

__all__ = ["find_neighbors", "knn_classify", "knn_rank", "usable_ks", "votes"]

_QUERIES_AT_ONCE = 1024  # the table of votes is this times c


def usable_ks(ks: Sequence[int], bank: int, *, leave_one_out: bool = False) -> list[int]:
    """Return the numbers of neighbors that the bank has; sorted, without repeats.

    If all are larger, all of the bank is the only number. It is 0 for an empty bank, or for a
    single image under ``leave_one_out``.
    """
    most = bank - 1 if leave_one_out else bank
    return sorted({k for k in ks if k <= most}) or [most]


def find_neighbors(
    bank: NDArray[np.float32], queries: NDArray[np.float32] | None, *, k: int, device: str = "cpu"
) -> Neighbors:
    """Find the k bank rows of largest cosine for every query, sorted by (-cosine, index).

    ``bank`` is ``[n, d]``, ``queries`` ``[q, d]``; both are normalized here. Without queries, every
    bank row searches all others (by index: a duplicate of the row stays). A zero row (a blank
    image) is no query's neighbor. ``k`` is at most n, or n - 1 for the bank itself; products run on
    ``device``.
    """
    rows = unit_rows(bank)
    backend = backend_for(device)
    if queries is not None:
        asks = unit_rows(queries)
        return top_k(asks, rows, k=k, backend=backend, device=device, rescore=False)
    neighbors = top_k(rows, rows, k=k + 1, backend=backend, device=device, rescore=False)
    is_self = neighbors.ids == np.arange(len(rows))[:, None]
    # A row with k + 1 exact duplicates before it is not in its own list: drop the last one.
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(rows), k)
    return Neighbors(
        neighbors.ids[~is_self].reshape(shape), neighbors.scores[~is_self].reshape(shape)
    )


def votes(
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Sum the weights of the first k neighbors by class, for ascending ``ks``.

    The weights are a softmax of cosine / temperature over *all* neighbors given, so the votes of
    fewer do not sum to 1; the ranking is the same.

    ``neighbors`` are ``[q, max(ks)]``, ``labels`` the classes 0 .. c - 1 of the bank, ``[n]``.

    Yields
    ------
    k, votes
        Float64 ``[q, c]``; the next step overwrites the array.
    """
    scores = neighbors.scores.astype(np.float64) / temperature
    best = scores.max(axis=1, initial=-np.inf, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(best), best, 0.0))
    totals = weights.sum(axis=1, keepdims=True)
    weights /= np.where(totals > 0, totals, 1.0)
    classes = labels[neighbors.ids]  # padding (-1) gets some class, with weight 0
    num = len(scores)
    sums = np.zeros((num, num_classes))
    done = 0
    for k in sorted(ks):
        cells = np.arange(num)[:, None] * num_classes + classes[:, done:k]
        added = np.bincount(cells.ravel(), weights[:, done:k].ravel(), minlength=num * num_classes)
        sums += added.reshape(num, num_classes)
        done = k
        yield k, sums


def knn_classify(
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    kept: Sequence[int] | None = None,
) -> dict[int, NDArray[np.int64]]:
    """Predict the class of every query from its neighbors, for every k; see `votes`.

    With ``kept`` only votes for these classes count.

    Returns
    -------
    dict
        k -> int64 ``[q]``; -1 for a query without any neighbor, of ``kept`` classes if given.
    """
    if kept is not None:  # neighbors of the others have no vote
        is_kept = np.isin(labels, kept)[neighbors.ids] & (neighbors.ids >= 0)
        neighbors = Neighbors(
            np.where(is_kept, neighbors.ids, -1), np.where(is_kept, neighbors.scores, -np.inf)
        )
    named = knn_rank(neighbors, labels, ks=ks, temperature=temperature, top=1)
    return {k: classes[:, 0] for k, classes in named.items()}


def knn_rank(
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    top: int = 5,
) -> dict[int, NDArray[np.int64]]:
    """Name the ``top`` classes of most votes for every query and k, best first; see `votes`.

    As published, at most k classes are named (of 1 neighbor only its own), and where fewer classes
    have votes, the smallest others follow.

    Returns
    -------
    dict
        k -> int64 ``[q, min(top, k, c)]``; -1 for a query without any neighbor.
    """
    present, labels = np.unique(
        labels, return_inverse=True
    )  # votes as wide as the bank has classes
    named = {k: np.full((len(neighbors.ids), min(top, k, len(present))), -1, np.int64) for k in ks}
    for start in range(0, len(neighbors.ids), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        some = Neighbors(neighbors.ids[part], neighbors.scores[part])
        for k, sums in votes(
            some, labels, ks=ks, temperature=temperature, num_classes=len(present)
        ):
            best = present[top_classes(sums, named[k].shape[1])]
            has_any = np.any(some.ids[:, :k] >= 0, axis=1, keepdims=True)
            named[k][part] = np.where(has_any, best, -1)
    return named
