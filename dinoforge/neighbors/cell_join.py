"""The approximate thresholded join: rows are compared where they share one of their nearest cells.

Inside a cell the join is exact, so a pair is missed only if its rows share no cell. How many are is
measured: a sample of rows is joined with all rows exactly (`join_sample`).

Shapes: n, m rows; d dimensions; K cells; r nearest cells of a row (`nearest_cells`, -1: none).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.filters import PairFilter
from dinoforge.neighbors.join import Edges, join_above

__all__ = [
    "Members",
    "SampledPairs",
    "join_cells",
    "join_in_cell",
    "join_sample",
    "members_of_cells",
    "smallest_common_cell",
    "split_cells",
]

Nearest = NDArray[np.int32]


def smallest_common_cell(a: Nearest, b: Nearest) -> NDArray[np.int32]:
    """Return the smallest cell that row i of ``a`` and of ``b`` share, int32 ``[n]``; -1: none."""
    none = np.iinfo(np.int32).max
    smallest = np.full(len(a), none, np.int32)
    for left in a.T:
        is_shared = (left[:, None] == b).any(axis=1) & (left >= 0)
        np.minimum(smallest, left, out=smallest, where=is_shared)
    return np.where(smallest == none, np.int32(-1), smallest)


def members_of_cells(nearest: Nearest, num: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the rows of every cell: those of cell c are ``rows[starts[c] : starts[c + 1]]``.

    Ascending in each cell. ``num`` is the number of cells; both are int64, ``starts`` ``[K + 1]``.
    """
    cell = nearest.ravel()
    starts = np.cumsum(np.r_[0, np.bincount(cell[cell >= 0], minlength=num)])
    order = np.argsort(cell, kind="stable")[len(cell) - starts[-1] :]
    return order // nearest.shape[1], starts.astype(np.int64)


class Members(NamedTuple):
    """Rows of a cell, or some of them."""

    rows: NDArray[Any]  # [n, d], float32 or float16
    nearest: Nearest  # [n, r], all cells of each row


def join_in_cell(
    cell: int,
    a: Members,
    b: Members | None = None,
    *,
    threshold: float,
    backend: str = "numpy",
    device: str = "cpu",
    pair_filter: PairFilter | None = None,
) -> Edges:
    """Join rows of one cell exactly and keep the pairs that belong to it.

    Rows share several cells; a pair belongs to the smallest of them, so each comes once, whoever
    joins which cells. Parameters are as in `join_above`.
    """
    right = a if b is None else b
    edges = join_above(
        a.rows,
        None if b is None else b.rows,
        threshold=threshold,
        backend=backend,
        device=device,
        pair_filter=pair_filter,
    )
    common = smallest_common_cell(a.nearest[edges.i], right.nearest[edges.j])
    belongs = common == cell
    return Edges(edges.i[belongs], edges.j[belongs], edges.similarity[belongs], edges.num_excluded)


def join_cells(
    rows: NDArray[Any],
    nearest: Nearest,
    num: int,
    *,
    threshold: float,
    backend: str = "numpy",
    device: str = "cpu",
) -> Edges:
    """Find the pairs of rows that share a cell and have an inner product above ``threshold``.

    Parameters
    ----------
    rows : ndarray
        ``[n, d]``, float32 or float16, in memory or mapped; unit rows make it a cosine.
    nearest : ndarray
        int32 ``[n, r]``, from `nearest_cells`.
    num : int
        K, the number of cells.
    threshold, backend, device
        As in `join_above`.

    Returns
    -------
    Edges
        A subset of `join_above`'s, with the same similarities. Memory is that of the largest cell,
        ``4 n r`` bytes twice, and the edges.
    """
    members, starts = members_of_cells(nearest, num)
    parts = []
    for cell, (first, stop) in enumerate(itertools.pairwise(starts.tolist())):
        if stop - first > 1:
            ids = members[first:stop]
            part = Members(rows[ids], nearest[ids])
            edges = join_in_cell(cell, part, threshold=threshold, backend=backend, device=device)
            parts.append((ids[edges.i], ids[edges.j], edges.similarity))
    excluded = int(np.count_nonzero((nearest < 0).all(axis=1)))
    if not parts:
        empty = np.zeros(0, np.int64)
        return Edges(empty, empty, np.zeros(0, np.float32), excluded)
    i, j, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return Edges(i[order], j[order], similarity[order], excluded)


def split_cells(
    sizes: NDArray[np.int64],
    *,
    max_products: int,
    max_rows: int,
    others: NDArray[np.int64] | None = None,
) -> Iterator[tuple[int, int]]:
    """Cut the cells into ranges of about equal work, in order: ``(first, stop)``.

    A range has at most ``max_products``, the sum of its squared sizes, and ``max_rows``, the sum of
    its sizes, or one cell. Work and memory thus depend little on how uneven the cells are. Rows of
    each cell are also joined with its ``others``, if these are given.
    """
    together = sizes if others is None else sizes + others
    first, products, rows = 0, 0, 0
    for cell, (size, whole) in enumerate(zip(sizes.tolist(), together.tolist(), strict=True)):
        products, rows = products + size * whole, rows + whole
        if cell > first and (products > max_products or rows > max_rows):
            yield first, cell
            first, products, rows = cell, size * whole, whole
    if len(sizes):
        yield first, len(sizes)


@dataclass(frozen=True)
class SampledPairs:
    """Pairs of sampled rows, i, with any row, j, and whether the cells find them."""

    i: NDArray[np.int64]  # position in the sample
    j: NDArray[np.int64]  # row
    similarity: NDArray[np.float32]
    is_found: NDArray[np.bool_]


def join_sample(
    sample: Members,
    others: Members,
    *,
    threshold: float,
    backend: str = "numpy",
    device: str = "cpu",
) -> SampledPairs:
    """Join sampled rows with rows exactly, and say which pairs share a cell.

    The share of found pairs estimates the recall of `join_cells`. A sampled row is also paired with
    itself where ``others`` hold it: drop those pairs by id.
    """
    edges = join_above(
        sample.rows, others.rows, threshold=threshold, backend=backend, device=device
    )
    common = smallest_common_cell(sample.nearest[edges.i], others.nearest[edges.j])
    return SampledPairs(edges.i, edges.j, edges.similarity, common >= 0)
