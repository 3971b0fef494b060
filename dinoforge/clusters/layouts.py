"""Two coordinates per row, so that similar rows lie near one another."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.packages import import_extra

__all__ = ["Layout", "lay_out", "require_layout"]

Layout = Literal["pca", "tsne"]

Floats = NDArray[np.float64]

_PERPLEXITY, _STEPS = 20, 3000  # of the figure of DINO (Caron et al. 2021)


def lay_out(
    rows_nD: NDArray[np.floating],
    layout: Layout,
    seed: int,
    *,
    where: str,
    perplexity: float = _PERPLEXITY,
    steps: int = _STEPS,
) -> Floats:
    """Lay out rows, such as class means, float64 ``[n, 2]``.

    Distances are cosines, of ``pca``, which takes rows as centered, Euclidean. ``perplexity`` and
    ``steps`` are of t-SNE (van der Maaten and Hinton 2008): on one thread, a function of the seed.

    Raises
    ------
    UsageError
        Without the extra ``tsne``, which t-SNE needs; ``where`` asked for it.
    """
    if layout == "tsne":
        model = require_layout(layout, where).TSNE(
            perplexity=min(perplexity, (len(rows_nD) - 1) / 3),
            max_iter=steps,
            metric="cosine",
            init="random",
            random_state=seed,
        )
        return np.asarray(model.fit_transform(rows_nD), np.float64)
    _, _, axes = np.linalg.svd(rows_nD, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, :1])  # a sign that does not depend on the library
    points: Floats = rows_nD @ axes.T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def require_layout(layout: Layout, where: str) -> Any:
    """Import what a layout needs: nothing, or ``sklearn.manifold``; see `lay_out`."""
    if layout == "tsne":
        return import_extra("sklearn.manifold", extra="tsne", where=where)
    return None
