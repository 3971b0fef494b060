"""Raw pixels as features: the baseline that a trained network must beat."""

import numpy as np

from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.pixels import small_picture

__all__ = ["RawPixelsEncoder"]

_SIDE = 32


class RawPixelsEncoder:
    """The values of a 32 x 32 RGB picture (3,072 dimensions).

    Parameters
    ----------
    centered : bool
        False, ``pixels_raw``: values in [0, 1] as they are, **not** unit rows, so that the mean of
        a data set can be taken off before rows are normalized (k-NN on CIFAR-10: 0.4583).
        True, ``pixels_centered``: less the mean of each image, unit rows (0.4796).
    """

    def __init__(self, *, centered: bool) -> None:
        self.name = "pixels_centered" if centered else "pixels_raw"
        self.dim = 3 * _SIDE * _SIDE
        self.fingerprint = fingerprint_of(encoder=self.name, version="1", side=_SIDE)

    def encode(self, images: Images) -> Vectors:
        """Flatten images; see `Encoder.encode`."""
        vectors = np.zeros((len(images), self.dim), np.float32)
        for row, image in enumerate(images):
            vectors[row] = small_picture(image, _SIDE).reshape(-1)
        vectors /= 255
        if self.name == "pixels_raw":
            return vectors
        vectors -= vectors.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
        return unit_rows(vectors)
