"""Weighted k-NN classification, exactly as published (DINOv2, section 7.1; Wu et al. 2018).

Ties are decided: equal similarity by the smaller bank index, equal votes by the smaller class.
Shapes: q queries, n bank rows, k neighbors, c classes, d dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import unit_rows
from dinoforge.neighbors import Neighbors, backend_for, top_k

__all__ = ["find_neighbors", "knn_classify", "usable_ks", "votes"]

_QUERIES_AT_ONCE = 1024  # the table of votes is this times c


def usable_ks(ks: Sequence[int], bank: int, *, leave_one_out: bool = False) -> list[int]:
    """Clip numbers of neighbors to what the bank can give; sorted, each once.

    Of an empty bank, or of one image alone under ``leave_one_out``, the only number is 0.
    """
    most = bank - 1 if leave_one_out else bank
    return sorted({min(k, most) for k in ks})


def find_neighbors(
    bank: NDArray[np.float32],
    queries: NDArray[np.float32] | None,
    *,
    k: int,
    device: str = "cpu",
) -> Neighbors:
    """Find the k bank rows of largest cosine for every query, best first.

    Parameters
    ----------
    bank : ndarray
        ``[n, d]``, normalized here. A zero row (an image that shows nothing) is nobody's neighbor.
    queries : ndarray or None
        ``[q, d]``; None asks the bank itself, every row without itself (by index: a duplicate of
        the row stays).
    k : int
        At most n, or n - 1 for the bank itself.
    device : str
        Where products run.

    Returns
    -------
    Neighbors
        Sorted by (-cosine, index).
    """
    rows = unit_rows(bank)
    backend = backend_for(device)
    if queries is not None:
        return top_k(unit_rows(queries), rows, k=k, backend=backend, device=device)
    found = top_k(rows, rows, k=k + 1, backend=backend, device=device)
    is_self = found.ids == np.arange(len(rows))[:, None]
    # A row with k + 1 exact duplicates before it is not in its own list: the last one goes.
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(rows), k)
    return Neighbors(found.ids[~is_self].reshape(shape), found.scores[~is_self].reshape(shape))


def votes(
    found: Neighbors,
    labels: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Sum the weights of the first k neighbors by class, for ascending ``ks``.

    The weights are a softmax of cosine / temperature over *all* neighbors found, so the votes of
    fewer do not sum to 1; the ranking is the same.

    Parameters
    ----------
    found : Neighbors
        ``[q, max(ks)]``.
    labels : ndarray
        Class of every bank row, ``[n]``, 0 .. c - 1.
    ks : sequence of int
        Numbers of neighbors that vote, each at least 1.
    temperature : float
        Of the softmax, in units of cosine.
    num_classes : int
        c.

    Yields
    ------
    k, votes
        Float64 ``[q, c]``; the array is changed by the next step.
    """
    scores = found.scores.astype(np.float64) / temperature
    best = scores.max(axis=1, initial=-np.inf, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(best), best, 0.0))
    totals = weights.sum(axis=1, keepdims=True)
    weights /= np.where(totals > 0, totals, 1.0)
    classes = labels[found.ids]  # of padding (-1) some class, with weight 0
    num = len(scores)
    sums = np.zeros((num, num_classes))
    done = 0
    for k in sorted(ks):
        places = np.arange(num)[:, None] * num_classes + classes[:, done:k]
        added = np.bincount(places.ravel(), weights[:, done:k].ravel(), minlength=num * num_classes)
        sums += added.reshape(num, num_classes)
        done = k
        yield k, sums


def knn_classify(
    found: Neighbors, labels: NDArray[np.int64], *, ks: Sequence[int], temperature: float
) -> dict[int, NDArray[np.int64]]:
    """Predict the class of every query from its neighbors, for every k.

    Parameters
    ----------
    found : Neighbors
        ``[q, max(ks)]``, of `find_neighbors`.
    labels : ndarray
        Class of every bank row, at least 0.
    ks : sequence of int
        Numbers of neighbors that vote, each at least 1.
    temperature : float
        See `votes`.

    Returns
    -------
    dict
        k -> int64 ``[q]``; -1 for a query without any neighbor.
    """
    num_classes = int(labels.max()) + 1
    predicted = {k: np.full(len(found.ids), -1, np.int64) for k in ks}
    for start in range(0, len(found.ids), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        some = Neighbors(found.ids[part], found.scores[part])
        has_any = (some.ids >= 0).any(axis=1)
        for k, sums in votes(some, labels, ks=ks, temperature=temperature, num_classes=num_classes):
            predicted[k][part] = np.where(has_any, sums.argmax(axis=1), -1)
    return predicted
