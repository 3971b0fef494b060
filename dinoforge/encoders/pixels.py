"""Encoders without a network: the pixel descriptor, which finds near-copies, and raw pixels.

The descriptor is hand-crafted features of a 32 x 32 image times a fixed matrix that suppresses
changes by JPEG, resizing, cropping and brightness (linear discriminant analysis: covariance of the
features over covariance of their change under edits). The matrix was fitted on synthetic images and
tiles of public-domain photographs by `benchmarks/pixel_descriptor.py`.

The features: orientation histograms on a grid of cells tolerate shifts (Dalal and Triggs 2005; as a
global copy descriptor: GIST, Douze et al. 2009); low DCT frequencies describe brightness and color
by position. Both are invariant to mirroring: a feature h and its mirror image m enter as
(h + m) / 2 and |h - m| / 2, which are equal for either image.

Not semantic: photographs of the same kind of object are not similar, different T-shirts on the same
red cloth are (cosine up to 0.96).

Shapes: B images, S = 32 pixels per side, A = 8 directions, C cells per side, F frequencies.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Fitting, Image, Images, Vectors, fingerprint_of, unit_rows
from dinoforge.files import sha256_file
from dinoforge.images import resize

__all__ = [
    "NUM_FEATURES",
    "SIDE",
    "PixelsEncoder",
    "RawPixelsEncoder",
    "pixel_features",
    "small_picture",
]

_FEATURES_VERSION = "1"

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

_MATRIX = Path(__file__).with_name("pixels-1.safetensors")

# Images are computed in padded batches of this size, so that the vector of an image does not depend
# on the number of images.
_TILE = 32


class PixelsEncoder(Fitting):
    """Copy descriptor of 128 dimensions, about 15,000 images of 32 pixels per CPU second."""

    name = "pixels"
    on_threads = True

    def __init__(self) -> None:
        self._mean, self._matrix = _projection()
        self.dim = self._matrix.shape[1]
        self.fingerprint = fingerprint_of(
            encoder=self.name, features=_FEATURES_VERSION, matrix=sha256_file(_MATRIX)
        )

    def fit(self, image: Image) -> Image:
        """Return the 32 x 32 picture, or its mirror image."""
        return _canonical_side(small_picture(image))

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`. An image of a single color gets a zero row."""
        vectors = np.zeros((len(images), self.dim), np.float32)
        for start in range(0, len(images), _TILE):
            batch = images[start : start + _TILE]
            vectors[start : start + len(batch)] = self._encode_tile(batch)
        return vectors

    def _encode_tile(self, images: Images) -> Vectors:
        pictures = np.zeros((_TILE, SIDE, SIDE, 3), np.uint8)
        for row, image in enumerate(images):
            pictures[row] = self.fit(image)
        features = pixel_features(pictures)
        vectors = unit_rows((features - self._mean) @ self._matrix)[: len(images)]
        shown = pictures[: len(images)].reshape(len(images), -1, 3)
        vectors[(shown == shown[:, :1]).all(axis=(1, 2))] = 0
        return vectors


def small_picture(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Resize to ``side`` x ``side`` pixels (bicubic, antialiased; changes the aspect)."""
    if image.shape[:2] == (side, side):
        return image
    return resize(image, side, side)


def _canonical_side(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image or its mirror image, whichever has the smaller bytes.

    Their features are equal up to rounding; this makes them bit-equal.
    """
    mirrored = picture[:, ::-1]
    return min(picture, mirrored, key=lambda side: side.tobytes())


@lru_cache(maxsize=1)
def _projection() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from safetensors.numpy import load_file

    tensors = load_file(_MATRIX)
    return tensors["mean"].astype(np.float32), tensors["matrix"].astype(np.float32)


class RawPixelsEncoder(Fitting):
    """Values of a 32 x 32 RGB image (3,072 dimensions): the baseline of every trained network.

    ``pixels_raw``: values in [0, 1], **not** unit rows, so that the mean of a data set can be
    subtracted before rows are normalized (k-NN on CIFAR-10: 0.4583). ``pixels_centered``: minus the
    mean of each image, unit rows (0.4796).
    """

    dim = 3 * SIDE * SIDE
    on_threads = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = fingerprint_of(encoder=name, version="1", side=SIDE)

    def fit(self, image: Image) -> Image:
        """Return the 32 x 32 picture."""
        return small_picture(image)

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        vectors = np.zeros((len(images), self.dim), np.float32)
        for row, image in enumerate(images):
            vectors[row] = small_picture(image).reshape(-1)
        vectors /= 255
        if self.name == "pixels_raw":
            return vectors
        vectors -= vectors.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
        return unit_rows(vectors)


def pixel_features(pictures: NDArray[np.uint8]) -> _Floats:
    """Describe RGB images ``[B, 32, 32, 3]``; an image and its mirror image get the same values.

    Returns float32 ``[B, NUM_FEATURES]``: three blocks (two grids of cells, DCT) of norm 1, or of
    norm 0 without content.
    """
    ycc_BSSc = pictures.astype(np.float32) @ _TO_YCC
    grids = _histograms(np.ascontiguousarray(ycc_BSSc[..., 0]))
    blocks = [_unit(np.sqrt(_mirror_blind_histograms(cells_BACC))) for cells_BACC in grids]
    return np.concatenate([*blocks, _layout(ycc_BSSc)], axis=1)


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
