"""Find one object per image without training: LOST and TokenCut.

LOST (Siméoni et al. 2021) grows a region from the patch that resembles fewest others; TokenCut
(Wang et al. 2022) cuts the graph of similar patches in two. Both compare the patches of one image.
If nearly all patches are linked, or none, the graph carries no information and the box is
arbitrary: see `Discovery.is_degenerate`.

Shapes: X rows and Y columns of patches, N of them, D width.
"""

import logging
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy import ndimage

from dinoforge.evaluation.metrics.boxes import mask_box
from dinoforge.evaluation.settings import FeatureKind, LostConfig, TokenCutConfig
from dinoforge.randomness import uniforms

__all__ = ["DEGENERATE", "Discovery", "choose_features", "lost", "pixel_box", "tokencut"]

_log = logging.getLogger(__name__)

Floats = NDArray[np.floating]

# All of DINOv2-like keys have positive products (measured on a ViT-S/14: 1.0).
DEGENERATE = 0.99
# Equal entries of an eigenvector differ by rounding, which must not decide.
_EQUAL = 1e-6


@dataclass(frozen=True)
class Discovery:
    """One region of an image, in patches."""

    mask_XY: NDArray[np.bool_]
    seed: int  # the patch that the region contains, row by row
    seed_ties: int  # patches with as good a claim to be the seed; the first of them is
    share_linked: float  # of the pairs of different patches

    @property
    def is_degenerate(self) -> bool:
        """Whether nearly all pairs are linked, or none: the region is then arbitrary."""
        return self.share_linked > DEGENERATE or self.share_linked == 0


def choose_features(kind: FeatureKind, keys_XYD: Floats, tokens_XYD: Floats) -> Floats:
    """Return keys of the last block, the same less their mean over the image, or its tokens."""
    if kind == "tokens":
        return tokens_XYD
    return keys_XYD - keys_XYD.mean(axis=(0, 1)) if kind == "keys_centered" else keys_XYD


def lost(features_XYD: Floats, config: LostConfig) -> Discovery:
    """Localize an object by LOST (section 3): features as they are, not normalized.

    Patches of equal degree are ordered by their place; the published order is undefined.
    """
    size = features_XYD.shape[:2]
    flat_ND = features_XYD.reshape(-1, features_XYD.shape[-1])
    products_NN = flat_ND @ flat_ND.T
    linked_NN = products_NN > 0
    np.fill_diagonal(linked_NN, val=False)
    degrees_N = linked_NN.sum(axis=1)
    order = np.argsort(degrees_N, kind="stable")
    seed = int(order[0])
    potential = order[: config.k_patches]
    similar = potential[products_NN[seed, potential] > 0]
    is_foreground = products_NN[similar].sum(axis=0) > 0
    is_foreground[seed] = True  # also if its features are zero
    return Discovery(
        _component(is_foreground.reshape(size), seed),
        seed,
        int((degrees_N == degrees_N[seed]).sum()),
        _share(linked_NN),
    )


def tokencut(features_XYD: Floats, config: TokenCutConfig) -> Discovery:
    """Localize an object by TokenCut (section 3): a normalized cut of the graph of cosines.

    The side of the cut with the largest entry of the second eigenvector is the object. Of entries
    that are equal to rounding, the first is the seed. Where all pairs are linked or none, every
    cut is as good: the whole image is returned.
    """
    size = features_XYD.shape[:2]
    flat_ND = features_XYD.reshape(-1, features_XYD.shape[-1]).astype(np.float64)
    norms = np.linalg.norm(flat_ND, axis=1, keepdims=True)
    unit_ND = flat_ND / np.maximum(norms, 1e-12)
    linked_NN = unit_ND @ unit_ND.T > config.tau
    np.fill_diagonal(linked_NN, val=False)
    share = _share(linked_NN)
    if share in {0.0, 1.0}:
        return Discovery(np.ones(size, np.bool_), 0, len(linked_NN), share)
    vector_N = second_eigenvector(linked_NN, config)
    sizes_N = np.abs(vector_N)
    leading = np.flatnonzero(sizes_N >= sizes_N.max() * (1 - _EQUAL))
    seed = int(leading[0])
    is_foreground = vector_N > vector_N.mean()
    if not is_foreground[seed]:
        is_foreground = ~is_foreground
    return Discovery(_component(is_foreground.reshape(size), seed), seed, len(leading), share)


def second_eigenvector(linked_NN: NDArray[np.bool_], config: TokenCutConfig) -> Floats:
    """Solve (D - A) x = lambda D x for the second smallest lambda: ``[N]``, sign undefined.

    A is 1 for linked pairs and on the diagonal, ``epsilon`` for others, D its row sums (Shi and
    Malik 2000).
    """
    weights_NN = np.where(linked_NN, 1.0, config.epsilon)
    np.fill_diagonal(weights_NN, 1.0)
    roots_N = np.sqrt(weights_NN.sum(axis=1))
    # With y = D^1/2 x: the second largest eigenvalue of the symmetric D^-1/2 A D^-1/2.
    weights_NN /= roots_N
    weights_NN /= roots_N[:, None]
    count = len(weights_NN)
    if count > config.dense_up_to:
        vector_N = _iterate(weights_NN, roots_N)
        if vector_N is not None:
            return vector_N / roots_N
        _log.info("LOBPCG did not converge on %d patches: computing all eigenvectors", count)
    _, vectors = scipy.linalg.eigh(weights_NN, subset_by_index=[count - 2, count - 2])
    return vectors[:, 0] / roots_N


def _iterate(matrix_NN: Floats, roots_N: Floats, *, tolerance: float = 1e-7) -> Floats | None:
    """Find the second eigenvector by LOBPCG; None if its residual stays above ``tolerance``."""
    from scipy.sparse.linalg import lobpcg

    count = len(matrix_NN)
    # A few vectors more than needed: the second and third eigenvalue may be close.
    start = uniforms(0, "evaluation/tokencut", np.arange(count), count=4) - 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not converged: judged by the residual below
        values, vectors = lobpcg(
            matrix_NN, start, Y=roots_N[:, None], largest=True, tol=tolerance / 10, maxiter=200
        )
    leading = vectors[:, np.argmax(values)]
    residual = matrix_NN @ leading - values.max() * leading
    return leading if np.linalg.norm(residual) <= tolerance * np.linalg.norm(leading) else None


def _component(mask_XY: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Keep what is connected with the seed, over sides of patches."""
    labels_XY, _ = ndimage.label(mask_XY)
    return labels_XY == labels_XY.flat[seed]


def _share(linked_NN: NDArray[np.bool_]) -> float:
    count = len(linked_NN)
    return float(np.count_nonzero(linked_NN) / max(count * (count - 1), 1))


def pixel_box(
    mask_XY: NDArray[np.bool_], patch_size: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """Return the box around a region, in pixels of an image that was padded to whole patches."""
    left, top, right, bottom = (side * patch_size for side in mask_box(mask_XY))
    return left, top, min(right, width), min(bottom, height)
