"""Hand-crafted features of a small image: edge orientations and the coarse layout of colors.

Orientation histograms on a grid of cells tolerate shifts (Dalal and Triggs 2005; as a global copy
descriptor: GIST, Douze et al. 2009); low DCT frequencies describe brightness and color by position.
Both are invariant to mirroring: a feature h and its mirror image m enter as (h + m) / 2 and
|h - m| / 2, which are equal for either image.

Shapes: B images, S = 32 pixels per side, A = 8 directions, C cells per side, F frequencies.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES_VERSION", "NUM_FEATURES", "SIDE", "pixel_features"]

FEATURES_VERSION = "1"

SIDE = 32
_DIRECTIONS = 8
_CELLS = (4, 7)  # cells per side, two scales
_BLUR = 0.7  # pixels: below the scale at which JPEG and resizing act
_CELL_WIDTH = 0.5  # standard deviation of a cell's Gaussian window, in cells
_FREQUENCIES = 8
_LUMA_RADIUS, _CHROMA_RADIUS = 7.1, 5.1  # of the DCT frequencies used

# Luma and two color differences (ITU-R BT.601).
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32
).T

_Floats = NDArray[np.float32]


def pixel_features(pictures: NDArray[np.uint8]) -> _Floats:
    """Describe small images; an image and its mirror image get the same values.

    Parameters
    ----------
    pictures : ndarray
        uint8 ``[B, 32, 32, 3]`` RGB.

    Returns
    -------
    ndarray
        float32 ``[B, NUM_FEATURES]``: three blocks (two grids of cells, DCT) of norm 1, or of
        norm 0 without content.
    """
    ycc_BSSc = pictures.astype(np.float32) @ _TO_YCC
    blocks = [_layout(ycc_BSSc)]
    for histograms in reversed(_histograms(np.ascontiguousarray(ycc_BSSc[..., 0]))):
        blocks.insert(0, _unit(np.sqrt(_mirror_blind_histograms(histograms))))
    return np.concatenate(blocks, axis=1)


def _histograms(luma_BSS: _Floats) -> list[_Floats]:
    """Sum the root of the gradient by direction and cell, ``[B, A, C, C]`` per scale."""
    blur = _blur()
    smooth = blur @ luma_BSS @ blur.T
    down, right = np.zeros_like(smooth), np.zeros_like(smooth)
    down[:, 1:-1] = smooth[:, 2:] - smooth[:, :-2]
    right[:, :, 1:-1] = smooth[:, :, 2:] - smooth[:, :, :-2]
    length = np.sqrt(down * down + right * right) + np.float32(1e-6)
    down /= length
    right /= length
    # The root limits the weight of a single strong edge and of brightness.
    weight = np.sqrt(length)
    by_direction = np.empty((len(luma_BSS), _DIRECTIONS, SIDE, SIDE), np.float32)
    half = _DIRECTIONS // 2
    for a in range(half):
        angle = (2 * a + 1) * np.pi / _DIRECTIONS
        along = right * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
        response = along * along * along * weight  # cubed: a soft bin, +-45 degrees wide
        np.maximum(response, 0, out=by_direction[:, a])
        np.maximum(-response, 0, out=by_direction[:, a + half])
    windows = _windows()
    columns = by_direction.reshape(-1, SIDE) @ windows.T
    columns = columns.reshape(len(luma_BSS), _DIRECTIONS, SIDE, sum(_CELLS))
    pooled, start = [], 0
    for cells in _CELLS:
        scale = slice(start, start + cells)
        pooled.append(windows[scale] @ columns[..., scale])
        start += cells
    return pooled


def _mirror_blind_histograms(cells_BACC: _Floats) -> _Floats:
    """Fold the right half onto the left: sums and absolute differences with the mirror image."""
    num = cells_BACC.shape[-1]
    # Mirroring maps the direction t to pi - t.
    mirrored = (_DIRECTIONS // 2 - 1 - np.arange(_DIRECTIONS)) % _DIRECTIONS
    other = cells_BACC[:, mirrored][..., ::-1]
    left = slice(0, (num + 1) // 2)
    weights = np.full((num + 1) // 2, np.sqrt(0.5), np.float32)  # a column represents two
    if num % 2:
        weights[-1] = 0.5  # the middle one only itself
    sums = (cells_BACC + other)[..., left] * weights
    differences = np.abs(cells_BACC - other)[..., left] * weights
    flat = [part.reshape(len(cells_BACC), -1) for part in (sums, differences)]
    return np.concatenate(flat, axis=1)


def _layout(ycc_BSSc: _Floats) -> _Floats:
    """Low DCT frequencies without the mean, weighted by the root of the frequency, norm 1."""
    dct, even, odd = _dct(), *_layout_weights()
    rows = np.tensordot(ycc_BSSc, dct, axes=(1, 1))  # [B, S, 3, F]
    waves_BcFF = np.tensordot(rows, dct, axes=(1, 1))  # [B, 3, F down, F right]
    # Mirroring changes the sign of odd horizontal frequencies.
    parts = [(waves_BcFF * even)[:, even > 0], np.abs(waves_BcFF * odd)[:, odd > 0]]
    return _unit(np.concatenate(parts, axis=1))


def _unit(rows: _Floats) -> _Floats:
    norms = np.sqrt(np.einsum("bd,bd->b", rows, rows))
    scaled: _Floats = rows / np.maximum(norms, np.float32(1e-6))[:, None]
    return scaled


@lru_cache(maxsize=1)
def _blur() -> _Floats:
    at = np.arange(SIDE)
    return _rows_to_one(np.exp(-0.5 * ((at[:, None] - at) / _BLUR) ** 2))


@lru_cache(maxsize=1)
def _windows() -> _Floats:
    """Gaussian windows of the cells of all scales, ``[sum(C), S]``."""
    at, parts = np.arange(SIDE), []
    for cells in _CELLS:
        centers = (np.arange(cells) + 0.5) * SIDE / cells - 0.5
        width = _CELL_WIDTH * SIDE / cells
        parts.append(_rows_to_one(np.exp(-0.5 * ((at - centers[:, None]) / width) ** 2)))
    return np.concatenate(parts)


def _rows_to_one(weights: NDArray[Any]) -> _Floats:
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=1)
def _dct() -> _Floats:
    """Orthonormal DCT-II, ``[F, S]``."""
    waves = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(_FREQUENCIES)[:, None] / SIDE)
    waves *= np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


@lru_cache(maxsize=1)
def _layout_weights() -> tuple[_Floats, _Floats]:
    """Weights of even and of odd horizontal frequencies, ``[3, F, F]``; 0: unused."""
    down, right = np.mgrid[:_FREQUENCIES, :_FREQUENCIES]
    radius = np.hypot(down, right)
    weights = np.sqrt(np.maximum(radius, 1))[None].repeat(3, axis=0)
    weights *= radius <= np.array([_LUMA_RADIUS, _CHROMA_RADIUS, _CHROMA_RADIUS])[:, None, None]
    weights[:, 0, 0] = 0  # the mean: brightness and tint
    even = (right % 2 == 0) * weights
    return even.astype(np.float32), (weights - even).astype(np.float32)


NUM_FEATURES = sum(2 * _DIRECTIONS * cells * ((cells + 1) // 2) for cells in _CELLS) + sum(
    int((weights > 0).sum()) for weights in _layout_weights()
)
