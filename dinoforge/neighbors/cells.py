"""Cells: centroids by k-means, and the cells nearest to every row.

For joins of more rows than can all be compared: rows are compared where they share a cell
(`dinoforge.neighbors.cell_join`).

Shapes: n rows; d dimensions; K cells; r nearest cells of a row.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import Rows, require_faiss, usable_rows
from dinoforge.neighbors.search import top_k

__all__ = ["SAMPLE_PER_CELL", "choose_num_cells", "nearest_cells", "train_cells"]

# Rows of the training sample per cell; FAISS asks for at least 39.
SAMPLE_PER_CELL = 48
# Iterations of the two levels, then of all centroids together. Without the latter, cells of one
# group do not reach into another: 0.955 of pairs at a cosine of 0.6 to 1 share one of 4 cells
# instead of 0.995 (100,000 x 256 of the peer script, 1,000 cells).
_LEVEL_ITERATIONS = 8
_FLAT_ITERATIONS = 5
_ROWS_AT_ONCE = 65536


def choose_num_cells(num_rows: int, r: int) -> int:
    """Return the number of cells for which a join costs least, at least 1.

    A row is multiplied with K centroids and, in r cells, with ``n r^2 / (2 K)`` rows; the latter
    cost about 2.25 times as much, because cells are uneven and products compared with a threshold.
    The sum is smallest at ``K = 1.5 r sqrt(n / 2)``.
    """
    return max(1, round(1.5 * r * math.sqrt(num_rows / 2)))


def train_cells(sample: NDArray[Any], num: int, *, seed: int, device: str = "cpu") -> Rows:
    """Find ``num`` centroids, float32 ``[K, d]`` unit rows, by spherical k-means in FAISS.

    Two levels of ``sqrt(num)`` first, which cost little, then a few iterations of all centroids
    together: as good as one level of many iterations, in a third of its time. On FAISS's GPUs if
    ``device`` is not the CPU and the package has any. In one thread, a function of the sample, the
    seed, the package and the machine.

    SuperKMeans of FAISS 1.15 was not faster (256 dimensions, Sapphire Rapids: 0.99 and 1.05 of the
    time of 8 iterations at 2,000 and 4,000 cells; 2.5 at 1,000).

    Parameters
    ----------
    sample : ndarray
        ``[n, d]``, float32 or float16; rows that are zero or not finite are left out.
    num : int
        At least 1; fewer come out of fewer rows.

    Raises
    ------
    UsageError
        If FAISS is not installed.
    """
    rows = np.ascontiguousarray(sample, np.float32)
    usable = usable_rows(rows)
    rows = rows if usable.all() else rows[usable]
    num = min(num, len(rows))
    if num == len(rows):
        return rows / np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    groups = _kmeans(rows, round(math.sqrt(num)), seed, device)
    group = top_k(rows, groups, k=1).ids[:, 0]
    counts = np.bincount(group, minlength=len(groups))
    # In proportion to the rows.
    shares = np.diff(np.rint(np.cumsum(np.r_[0, counts]) * (num / len(rows))).astype(np.int64))
    parts = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
    start = np.concatenate(
        [
            _kmeans(rows[part], share, seed, device)
            for part, share in zip(parts, shares.tolist(), strict=True)
            if share
        ]
    )
    return _kmeans(rows, num, seed, device, start=start)


def _kmeans(rows: Rows, num: int, seed: int, device: str, start: Rows | None = None) -> Rows:
    faiss = require_faiss()
    kmeans = faiss.Kmeans(
        rows.shape[1],
        num,
        niter=_LEVEL_ITERATIONS if start is None else _FLAT_ITERATIONS,
        spherical=True,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=2 * SAMPLE_PER_CELL,
        gpu=device != "cpu" and faiss.get_num_gpus() > 0,
    )
    kmeans.train(rows, init_centroids=start)
    centroids: Rows = np.array(kmeans.centroids, np.float32).reshape(num, -1)
    return centroids


def nearest_cells(
    rows: NDArray[Any], centroids: Rows, r: int, *, backend: str = "numpy", device: str = "cpu"
) -> NDArray[np.int32]:
    """Find the r nearest cells of every row, int32 ``[n, r]``, nearest first.

    Exact, ties to the smaller cell; ``backend`` and ``device`` are as in `top_k`, and as there
    change nothing. Rows that are zero or not finite have none; missing cells are -1.
    """
    nearest = np.full((len(rows), r), -1, np.int32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        neighbors = top_k(block, centroids, k=r, backend=backend, device=device)
        nearest[start : start + len(block)] = neighbors.ids
    return nearest
