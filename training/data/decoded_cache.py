"""Training images, shrunk as they are decoded, and kept in memory shared by all data workers.

The first pass over a small data set decodes each image once; later passes only crop. Images that no
longer fit are decoded every time: the cache changes speed, never a batch.
"""

import contextlib
import multiprocessing.context
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

from dinoforge.images import Undecodable, resize
from dinoforge.sources.image_set import ImageSet
from dinoforge.training.data.parts import DataConfig

__all__ = ["DecodedCache", "TrainingImages"]

Image = npt.NDArray[np.uint8]

_SAMPLE = 64  # images decoded to estimate the size of all
_SPARE = 1.1


class TrainingImages:
    """Images by position, of at most ``max_side`` pixels, cached as the recipe asks.

    Under ``cache=auto`` all images must fit in ``cache_mib``, as estimated from a few. `context` is
    that of the worker processes which share the cache.
    """

    def __init__(
        self,
        images: ImageSet,
        data: DataConfig,
        context: multiprocessing.context.BaseContext | None = None,
    ) -> None:
        self.table = images.table
        self._images, self._max_side = images, data.max_side
        self._cache: DecodedCache | None = None
        if data.cache == "none":
            return
        sizes = []
        sample = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(int)).tolist()
        self.fetch(sample)
        for index in sample:
            with contextlib.suppress(Undecodable):
                sizes.append(self.decode(index).size)
        num_bytes = int(_SPARE * len(images) * float(np.mean(sizes))) if sizes else 0
        if data.cache == "decoded" or num_bytes <= data.cache_mib << 20:
            self._cache = DecodedCache(len(images), num_bytes + max(sizes, default=0), context)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def fetch(self, indices: Sequence[int]) -> None:
        """Read images that are not cached from object stores, before they are decoded."""
        cache = self._cache
        self._images.fetch([at for at in indices if cache is None or cache.get(at) is None])

    def decode(self, index: int) -> Image:
        """Return uint8 ``[H, W, 3]``, not to be changed, or raise `Undecodable`."""
        pixels = self._cache.get(index) if self._cache is not None else None
        if pixels is None:
            pixels = self._images.decode(index)
            height, width = pixels.shape[:2]
            scale = self._max_side / min(height, width)
            if 0 < scale < 1:
                sides = (max(self._max_side, round(side * scale)) for side in (width, height))
                pixels = resize(pixels, *sides)
            if self._cache is not None:
                self._cache.put(index, pixels)
        return pixels


class DecodedCache:
    """Pixels of images in one block of ``num_bytes`` of memory.

    With a multiprocessing `context`, the block is shared with the processes started from it.
    """

    def __init__(
        self,
        num_images: int,
        num_bytes: int,
        context: multiprocessing.context.BaseContext | None = None,
    ) -> None:
        self._lock: AbstractContextManager[object] = contextlib.nullcontext()
        if context is None:
            self._pixels: object = np.empty(num_bytes, np.uint8)
            # Start (-1: absent), height and width of each image; last row: bytes used.
            self._slots: object = np.empty(3 * (num_images + 1), np.int64)
        else:
            self._lock = context.Lock()
            self._pixels = context.RawArray("B", max(1, num_bytes))
            self._slots = context.RawArray("q", 3 * (num_images + 1))
        self._views()[1][:] = -1
        self._views()[1][-1] = 0

    def get(self, index: int) -> Image | None:
        """Return the pixels of an image, a view that must not be changed, or None."""
        pixels, slots = self._views()
        with self._lock:
            start, height, width = slots[index].tolist()
        if start < 0:
            return None
        return pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def put(self, index: int, image: Image) -> None:
        """Keep the pixels of an image if there is room and they are absent."""
        pixels, slots = self._views()
        with self._lock:
            start = int(slots[-1, 0])
            if slots[index, 0] >= 0 or start + image.size > len(pixels):
                return
            pixels[start : start + image.size] = image.reshape(-1)
            slots[-1, 0] = start + image.size
            slots[index] = (start, *image.shape[:2])

    def _views(self) -> tuple[Image, npt.NDArray[np.int64]]:
        slots = np.frombuffer(self._slots, np.int64)  # type: ignore[call-overload]
        return np.frombuffer(self._pixels, np.uint8), slots.reshape(-1, 3)  # type: ignore[call-overload]
