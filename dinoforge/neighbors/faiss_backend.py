"""FAISS as a back end of the exact searches: it proposes candidates, which are scored again.

Both ``faiss-cpu`` and ``faiss-gpu`` install a folder ``faiss`` and overwrite each other's.
"""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.neighbors.products import Rows

__all__ = ["range_candidates", "refuse_two_faiss", "require_faiss", "top_candidates"]

_QUERIES_AT_ONCE = 4096


def refuse_two_faiss() -> None:
    """Stop if both FAISS packages are installed; takes milliseconds and imports neither.

    Raises
    ------
    UsageError
        With the commands that fix it.
    """
    installed = [name for name in ("faiss-cpu", "faiss-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise UsageError(
            what="faiss-cpu and faiss-gpu are both installed and overwrite each other",
            where="this Python environment",
            do="pip uninstall --yes faiss-cpu faiss-gpu, then pip install faiss-gpu "
            "(or faiss-cpu without a GPU)",
        )


def require_faiss() -> Any:
    """Import FAISS.

    Raises
    ------
    UsageError
        If none is installed (with the pip command), or both packages are.
    """
    refuse_two_faiss()
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            what="FAISS is not installed",
            where="this Python environment",
            do='pip install "dinoforge[cpu]" (or "dinoforge[gpu]" with a GPU)',
        ) from error
    return faiss


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def range_candidates(
    left: Rows, right: Rows, low: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs with a float32 inner product above ``low``."""
    index = require_faiss().IndexFlatIP(right.shape[1])
    index.add(right)
    for top in range(0, len(left), _QUERIES_AT_ONCE):
        limits, _, ids = index.range_search(left[top : top + _QUERIES_AT_ONCE], low)
        counts = np.diff(limits.astype(np.int64))
        yield np.repeat(np.arange(len(counts)), counts) + top, ids.astype(np.int64)


def top_candidates(
    q: Rows, b: Rows, k: int, margin: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs that may be among the k best of a query; see `TileProduct.top`."""
    index = require_faiss().IndexFlatIP(b.shape[1])
    index.add(b)
    near, _ = index.search(q, k)
    bars = near[:, -1] - 2 * margin
    columns = [index.range_search(q[i : i + 1], float(bar))[2] for i, bar in enumerate(bars)]
    rows = np.repeat(np.arange(len(q)), [len(ids) for ids in columns])
    return rows, np.concatenate(columns).astype(np.int64)
