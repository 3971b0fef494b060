"""Encoders without a network: the pixel descriptor, which finds near-copies, and raw pixels.

The descriptor is hand-crafted features of a 32 x 32 image (`pixel_features`) times a fixed matrix
that suppresses changes by JPEG, resizing, cropping and brightness (linear discriminant analysis:
covariance of the features over covariance of their change under edits). The matrix was fitted on
synthetic images and tiles of public-domain photographs by `benchmarks/pixel_descriptor.py`.

Invariant to mirroring by construction. Not semantic: photographs of the same kind of object are not
similar, different T-shirts on the same red cloth are (cosine up to 0.96).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.pixel_features import FEATURES_VERSION, SIDE, pixel_features
from dinoforge.files import sha256_file
from dinoforge.images import resize

__all__ = ["PixelsEncoder", "RawPixelsEncoder", "small_picture"]

_MATRIX = Path(__file__).with_name("pixels-1.safetensors")

# Images are computed in padded batches of this size, so that the vector of an image does not depend
# on the number of images.
_TILE = 32


class PixelsEncoder:
    """Copy descriptor of 128 dimensions, about 15,000 images of 32 pixels per CPU second."""

    name = "pixels"

    def __init__(self) -> None:
        self._mean, self._matrix = _projection()
        self.dim = self._matrix.shape[1]
        self.fingerprint = fingerprint_of(
            encoder=self.name, features=FEATURES_VERSION, matrix=sha256_file(_MATRIX)
        )

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
            pictures[row] = _canonical_side(small_picture(image))
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


class RawPixelsEncoder:
    """Values of a 32 x 32 RGB image (3,072 dimensions): the baseline of every trained network.

    Parameters
    ----------
    name : str
        ``pixels_raw``: values in [0, 1], **not** unit rows, so that the mean of a data set can be
        subtracted before rows are normalized (k-NN on CIFAR-10: 0.4583). ``pixels_centered``:
        minus the mean of each image, unit rows (0.4796).
    """

    dim = 3 * SIDE * SIDE

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = fingerprint_of(encoder=name, version="1", side=SIDE)

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
