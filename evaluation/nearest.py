"""The k nearest rows, exact, at the speed of one product: candidates in float32, then exact scores.

Same results as `dinoforge.neighbors.top_k`, which keeps a rising bar over tiles of the base and at
k = 200 scores three times as many pairs.

Shapes: q queries, n base rows, d dimensions, m candidates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors import Neighbors, top_k
from dinoforge.neighbors.products import slack

__all__ = ["nearest"]

Rows = NDArray[np.float32]

_PRODUCT_MIB = 128  # of one tile of products
_SPARE = 32  # candidates beyond k: the float32 order is right up to a few places


def nearest(queries: Rows, base: Rows, *, k: int, device: str = "cpu") -> Neighbors:
    """Find the k base rows with the largest inner product for every query.

    Parameters
    ----------
    queries, base : ndarray
        ``[q, d]`` and ``[n, d]``, float32, finite. Zero base rows are nobody's neighbor; zero
        queries have none.
    k : int
        At least 1; lists are padded with id -1, score -inf.
    device : str
        Where products and the choice of candidates run.

    Returns
    -------
    Neighbors
        Sorted by (-score, id); scores are sums in float64, so tiles, threads and devices do not
        change the order.
    """
    import torch

    ids = np.flatnonzero(base.any(axis=1))
    rows = np.ascontiguousarray(base[ids] if len(ids) < len(base) else base)
    asks = np.flatnonzero(queries.any(axis=1))
    found = Neighbors(
        np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    )
    if not len(rows):
        return found
    on_device = torch.from_numpy(rows).to(device)
    step = max(1, _PRODUCT_MIB * 2**20 // (4 * len(rows)))
    for start in range(0, len(asks), step):
        mine = asks[start : start + step]
        part = _search(np.ascontiguousarray(queries[mine]), rows, on_device, k)
        found.ids[mine] = np.where(part.ids >= 0, ids[part.ids], -1)
        found.scores[mine] = part.scores
    return found


def _search(queries: Rows, base: Rows, on_device: Any, k: int) -> Neighbors:
    import torch

    m = min(len(base), k + max(_SPARE, k // 4))
    products = torch.from_numpy(queries).to(on_device.device) @ on_device.T
    rough, at = (tensor.cpu().numpy() for tensor in torch.topk(products, m, dim=1))
    at = np.sort(at, axis=1)  # by id: a stable sort by score then decides ties by id
    scores = _exact(queries, base, at)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = Neighbors(
        np.take_along_axis(at, order, axis=1), np.take_along_axis(scores, order, axis=1)
    )
    if m < k:
        found = _padded(found, k)
    # Whoever was left out is, exactly, at most this much above the least candidate.
    bound = rough.min(axis=1) + slack(queries, base)
    unsure = np.flatnonzero((found.scores[:, -1] <= bound) & (m < len(base)))
    if len(unsure):
        again = top_k(queries[unsure], base, k=k)
        found.ids[unsure], found.scores[unsure] = again.ids, again.scores
    return found


def _exact(queries: Rows, base: Rows, at: NDArray[np.int64]) -> Rows:
    """Score as `dinoforge.neighbors.exact_scores` does, bit for bit.

    Query by query, so that the rows of one stay in the cache: 0.07 s against 0.75 s for
    500 x 250 pairs of 384 dimensions (2026-11, one Zen 4 core).
    """
    scores = np.empty(at.shape, np.float32)
    for row, query in enumerate(queries):
        products = base[at[row]].astype(np.float64)
        products *= query
        scores[row] = products.sum(axis=1)
    return scores


def _padded(found: Neighbors, k: int) -> Neighbors:
    missing = ((0, 0), (0, k - found.ids.shape[1]))
    return Neighbors(
        np.pad(found.ids, missing, constant_values=-1),
        np.pad(found.scores, missing, constant_values=-np.inf),
    )
