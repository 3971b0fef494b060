"""The encoder interface: images in, one vector per image out, and a fingerprint of the function.

Not for training: networks run in evaluation mode and keep no state between calls.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dinoforge.files import hash_json
from dinoforge.images import DECODER_VERSION

__all__ = ["Encoder", "Fitting", "Image", "Images", "Vectors", "fingerprint_of", "unit_rows"]

Image = NDArray[np.uint8]
Images = Sequence[Image]
Vectors = NDArray[np.float32]

_ROWS_AT_ONCE = 256


@runtime_checkable
class Encoder(Protocol):
    """Turns decoded images into vectors whose inner product is a cosine.

    Except ``pixels_raw``, whose rows are not normalized.
    """

    name: str  # the spec
    dim: int
    fingerprint: str  # of weights, transform and decoder: vectors are comparable only if equal

    def encode(self, images: Images) -> Vectors:
        """Encode upright RGB images, uint8 ``[H, W, 3]`` of any sizes.

        Returns float32 ``[B, dim]``, finite: unit rows, except for ``pixels_raw``, and a zero row
        for an image without content.
        """
        ...

    @property
    def on_threads(self) -> bool:
        """Whether several threads may call `encode` at the same time."""
        ...

    def fit(self, image: Image) -> Image:
        """Reduce an image to what `encode` reads of it, which gives the same vector.

        Any thread may call it.
        """
        ...

    def encode_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Encode groups of images, one after the other: the vectors of each as `encode` gives them.

        A GPU computes one batch while the next is taken from ``groups`` and copied to it.
        """
        ...


class Fitting:
    """What an encoder has if it takes images as they are and computes on the CPU."""

    on_threads = False

    def fit(self, image: Image) -> Image:
        """Return the image."""
        return image

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        raise NotImplementedError

    def encode_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Encode groups of images; see `Encoder.encode_each`."""
        return map(self.encode, groups)


def fingerprint_of(**parts: Any) -> str:
    """Hash everything that determines the vectors; adds the version of the decoder."""
    return hash_json({"decoder": DECODER_VERSION, **parts})


def unit_rows(rows: NDArray[Any]) -> Vectors:
    """Divide rows ``[B, D]`` by their Euclidean norm (float64 sums); zero rows stay zero."""
    rows = np.asarray(rows)
    scaled = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):  # all at once take three times as long
        part = slice(start, start + _ROWS_AT_ONCE)
        wide = np.asarray(rows[part], np.float64)
        norms = np.sqrt(np.einsum("bd,bd->b", wide, wide))
        scaled[part] = wide / np.where(norms > 0, norms, 1.0)[:, None]
    return scaled
