"""Images shrunk as they are decoded, so that large photographs fit the cache of decoded images."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinoforge.images import resize
from dinoforge.training.decoded_cache import TrainingImages

__all__ = ["Shrunk"]


class Shrunk:
    """Images of at most ``max_side`` pixels on their shorter side; smaller ones stay as they are.

    Parameters
    ----------
    images : TrainingImages
    max_side : int
        Pixels.
    """

    def __init__(self, images: TrainingImages, max_side: int) -> None:
        self._images, self._max_side = images, max_side
        self.table: pa.Table = images.table

    def __len__(self) -> int:
        """Count the images."""
        return len(self._images)

    def decode(self, index: int, /) -> npt.NDArray[np.uint8]:
        """Return uint8 ``[H, W, 3]`` or raise `Undecodable`."""
        pixels = self._images.decode(index)
        height, width = pixels.shape[:2]
        scale = self._max_side / min(height, width)
        if scale >= 1:
            return pixels
        shorter_first = (max(self._max_side, round(side * scale)) for side in (width, height))
        return resize(pixels, *shorter_first)
