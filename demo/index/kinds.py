"""How vectors are searched: as they are, or by a compressed index that proposes rows.

flat: all float16 rows. pq: 4 bits per 4 numbers (product quantization, Jegou et al. 2011; its fast
scan by Andre et al. 2015), and the rows proposed are compared exactly. ivf: the same in cells, of
which a query visits some. Rows are read from disk by pq and ivf.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.index.search import ExactRows, Nearest, Rows
from dinoforge.neighbors.products import require_faiss
from dinoforge.randomness import uniforms

__all__ = ["Kind", "ProposedRows", "choose_kinds", "compress", "kind_bytes", "open_compressed"]

Kind = Literal["flat", "pq", "ivf"]
Shape = tuple[int, int]  # rows, dimensions

_MANY = 20_000_000  # rows beyond which a scan of all codes takes longer than 50 ms
_TRAINED = 65_536  # rows on which codes are trained
_CODES = 16  # of 4 bits; they need as many rows
_PROPOSED = 200  # at least: the exact comparison makes up for the codes
_ADDED = 65_536  # rows at a time


def kind_bytes(kind: Kind, shape: Shape) -> int:
    """Return the memory that a kind of index of ``shape`` needs."""
    num, dim = shape
    codes = num * (dim // _group(dim)) // 2
    return {"flat": 2 * num * dim, "pq": codes, "ivf": codes + 8 * num + 4 * dim * _cells(num)}[
        kind
    ]


def choose_kinds(shapes: Mapping[str, Shape], memory: int) -> dict[str, Kind]:
    """Choose the kinds of the tables, in order: the first stays exact the longest.

    ``memory`` bytes are for all of them; if even compressed ones do not fit, they are compressed,
    except for tables of too few rows.
    """
    small: dict[str, Kind] = {
        name: "ivf" if num > _MANY else "pq" if num >= _CODES else "flat"
        for name, (num, _) in shapes.items()
    }
    names = list(shapes)
    for num_exact in range(len(names), 0, -1):
        kinds = small | dict.fromkeys(names[:num_exact], "flat")
        if sum(kind_bytes(kinds[name], shapes[name]) for name in names) <= memory:
            return kinds
    return small


def compress(rows: Rows, kind: Kind, seed: int) -> Any:
    """Return the FAISS index of unit rows; a function of them, with one thread."""
    faiss = require_faiss()
    num, dim = rows.shape
    groups = dim // _group(dim)
    if kind == "ivf":
        cells = faiss.IndexFlatIP(dim)
        args = (cells, dim, _cells(num), groups, 4, faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexIVFPQFastScan(*args)
    else:
        index = faiss.IndexPQFastScan(dim, groups, 4, faiss.METRIC_INNER_PRODUCT)
    for clustering in (index, index.pq) if kind == "ivf" else (index.pq,):
        clustering.cp.min_points_per_centroid = 1  # FAISS would warn of a small collection
    draws = uniforms(seed, "index/train", np.arange(min(_TRAINED, num)))
    sample = np.unique((draws.ravel() * num).astype(np.int64)) if num > _TRAINED else np.arange(num)
    index.train(rows[sample].astype(np.float32))
    for start in range(0, num, _ADDED):
        index.add(rows[start : start + _ADDED].astype(np.float32))
    return index


class ProposedRows:
    """Rows that an index proposes, compared exactly."""

    def __init__(self, index: Any, rows: Rows) -> None:
        self._index, self._rows = index, rows

    def search(self, queries: NDArray[np.float32], k: int) -> Nearest:
        """Return the k best of the proposed rows; see `SearchableRows.search`."""
        k = min(k, len(self._rows))
        num = min(len(self._rows), max(_PROPOSED, 10 * k))
        _, proposed = self._index.search(np.ascontiguousarray(queries, np.float32), num)
        parts = []
        for query, ids in zip(queries, proposed, strict=True):
            known = np.sort(ids[ids >= 0])  # in the order of the file
            best = ExactRows(self._rows[known]).search(query[None], k)
            parts.append((best.scores, np.where(best.rows < 0, -1, known[best.rows])))
        scores, rows = map(np.concatenate, zip(*parts, strict=True))
        return Nearest(scores, rows)


def open_compressed(file: Path, rows: Rows, probes: int) -> ProposedRows:
    """Open the index of rows; ``probes`` are the cells that a query visits, of ivf."""
    faiss = require_faiss()
    index = faiss.deserialize_index(np.fromfile(file, np.uint8))
    if probes:
        index.nprobe = probes
    return ProposedRows(index, rows)


def _group(dim: int) -> int:
    """Return how many numbers share a code of 4 bits."""
    return next(size for size in (4, 3, 2, 1) if dim % size == 0)


def _cells(num: int) -> int:
    """Return the number of cells: a power of two near 4 times the square root."""
    return 1 << max(0, round(np.log2(max(1.0, 4 * num**0.5))))
