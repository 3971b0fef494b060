"""Two coordinates per class, so that similar classes lie near one another."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.packages import import_extra

__all__ = ["Layout", "lay_out"]

Layout = Literal["pca", "tsne"]

Floats = NDArray[np.float64]

_PERPLEXITY, _STEPS = 20, 3000  # of the figure of DINO (Caron et al. 2021)


def lay_out(means_CD: Floats, layout: Layout, seed: int) -> Floats:
    """Lay out class means, float64 ``[C, 2]``; distances are cosines, of ``pca`` Euclidean.

    Raises
    ------
    UsageError
        Without the extra ``tsne``, which t-SNE needs.
    """
    if layout == "tsne":
        manifold = import_extra("sklearn.manifold", extra="tsne", where="--layout tsne")
        model = manifold.TSNE(
            perplexity=min(_PERPLEXITY, (len(means_CD) - 1) / 3),
            max_iter=_STEPS,
            metric="cosine",
            init="random",
            random_state=seed,
        )
        return np.asarray(model.fit_transform(means_CD), np.float64)
    _, _, axes = np.linalg.svd(means_CD, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, :1])  # a sign that does not depend on the library
    points: Floats = means_CD @ axes.T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
