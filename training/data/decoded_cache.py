"""Decoded images kept in memory, shared by all data workers, filled as they are first used.

A first pass over a small data set decodes each image once; later passes only crop. What does not
fit any more is decoded again each time: the cache changes speed, never a batch.
"""

import contextlib
import multiprocessing.context
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinoforge.images import Undecodable, resize

__all__ = ["DecodedCache", "Decodes", "Shrunk", "TrainingImages", "plan_cache"]

Image = npt.NDArray[np.uint8]

_SAMPLE = 64  # images decoded to estimate the size of all
_SPARE = 1.1


class Decodes(Protocol):
    """Images by number; `dinoforge.sources.ImageSet` is one."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def decode(self, index: int, /) -> Image:
        """Return uint8 ``[H, W, 3]`` or raise `Undecodable`."""
        ...


class TrainingImages(Decodes, Protocol):
    """What is trained on; `dinoforge.sources.ImageSet` is one."""

    @property
    def table(self) -> pa.Table:
        """One row an image, with column ``key``."""
        ...


class DecodedCache:
    """Pixels of up to n images in one block of memory.

    Parameters
    ----------
    num_images : int
        n.
    num_bytes : int
        Room for pixels; handed out by the system page by page as it fills, unless shared.
    context : multiprocessing context, optional
        Share the block with processes started from it (it travels to them when they start).
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
            # Where each image starts (-1: not here), its height and width; last row: room used.
            self._places: object = np.empty(3 * (num_images + 1), np.int64)
        else:
            self._lock = context.Lock()
            self._pixels = context.RawArray("B", max(1, num_bytes))
            self._places = context.RawArray("q", 3 * (num_images + 1))
        self._views()[1][:] = -1
        self._views()[1][-1] = 0

    def get(self, index: int) -> Image | None:
        """Return the pixels of an image, or None; a view that must not be written to."""
        pixels, places = self._views()
        with self._lock:
            start, height, width = places[index].tolist()
        if start < 0:
            return None
        return pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def put(self, index: int, image: Image) -> None:
        """Keep the pixels of an image if there is room and they are not here yet."""
        pixels, places = self._views()
        with self._lock:
            start = int(places[-1, 0])
            if places[index, 0] >= 0 or start + image.size > len(pixels):
                return
            pixels[start : start + image.size] = image.reshape(-1)
            places[-1, 0] = start + image.size
            places[index] = (start, *image.shape[:2])

    def _views(self) -> tuple[Image, npt.NDArray[np.int64]]:
        places = np.frombuffer(self._places, np.int64)  # type: ignore[call-overload]
        return np.frombuffer(self._pixels, np.uint8), places.reshape(-1, 3)  # type: ignore[call-overload]


def plan_cache(
    images: Decodes,
    mode: Literal["auto", "decoded", "none"],
    limit_mib: int,
    context: multiprocessing.context.BaseContext | None = None,
) -> DecodedCache | None:
    """Make a cache for all images, or none.

    Parameters
    ----------
    images : Decodes
        A few of them are decoded to estimate the size of all.
    mode : str
        "auto": only if all fit into the limit; "decoded": always; "none": never.
    limit_mib : int
        Memory for pixels under "auto", MiB.
    context : multiprocessing context, optional
        Of the processes that will share the cache.
    """
    if mode == "none" or not len(images):
        return None
    sizes = []
    for index in np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(int)).tolist():
        with contextlib.suppress(Undecodable):
            sizes.append(images.decode(index).size)
    num_bytes = int(_SPARE * len(images) * float(np.mean(sizes))) if sizes else 0
    if mode == "auto" and num_bytes > limit_mib << 20:
        return None
    return DecodedCache(len(images), num_bytes + max(sizes, default=0), context)


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
