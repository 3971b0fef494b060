"""The k rows with the largest inner products: every row, or few of them by a compressed index.

Shapes: n rows, D dimensions, Q queries.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ExactRows", "Nearest", "Rows", "SearchableRows"]

Rows = NDArray[np.float16]

_CONVERTED = 2048  # rows in float32 at a time: they stay in the cache
_RANKED = 1 << 18  # rows of which the best are chosen at a time
_QUERIES = 64  # at a time: their products with `_RANKED` rows take 64 MiB


class Nearest(NamedTuple):
    """Per query the best rows, best first; of fewer than k, the last are row -1, score -inf."""

    scores: NDArray[np.float32]  # [Q, k]
    rows: NDArray[np.int64]  # [Q, k]


class SearchableRows(Protocol):
    """Rows that can be searched."""

    def search(self, queries: NDArray[np.float32], k: int) -> Nearest:
        """Return the k best of all rows for queries ``[Q, D]``."""
        ...


class ExactRows:
    """All products, in float32; float16 rows are read once per search, from a file if mapped."""

    def __init__(self, rows: Rows) -> None:
        self._rows = torch.from_numpy(rows)

    def search(self, queries: NDArray[np.float32], k: int) -> Nearest:
        """Return the k best of all rows; see `SearchableRows.search`."""
        parts = [
            self._search(torch.from_numpy(np.ascontiguousarray(some, np.float32)), k)
            for some in np.split(queries, range(_QUERIES, len(queries), _QUERIES))
        ]
        scores, rows = (np.concatenate([part[at] for part in parts]) for at in range(2))
        return Nearest(scores, rows)

    def _search(self, queries_QD: torch.Tensor, k: int) -> Nearest:
        n, dim = self._rows.shape
        wide_BD = torch.empty((min(_CONVERTED, n), dim))
        products = torch.empty((min(_RANKED, n), len(queries_QD)))
        scores = torch.full((len(queries_QD), k), -torch.inf)
        rows = torch.full((len(queries_QD), k), -1)
        for low in range(0, n, _RANKED):
            high = min(low + _RANKED, n)
            for start in range(low, high, _CONVERTED):
                stop = min(start + _CONVERTED, high)
                block = wide_BD[: stop - start].copy_(self._rows[start:stop])
                torch.mm(block, queries_QD.T, out=products[start - low : stop - low])
            best = products[: high - low].T.topk(min(k, high - low), dim=1)
            scores = torch.cat([scores, best.values], dim=1)
            rows = torch.cat([rows, best.indices + low], dim=1)
            order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
            scores, rows = scores.gather(1, order), rows.gather(1, order)
        return Nearest(scores.numpy(), rows.numpy())
