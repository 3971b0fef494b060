"""What networks see in pictures, computed by one thread and remembered by content."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dinoforge.demo.index.reader import Index
from dinoforge.demo.network import Network
from dinoforge.demo.server.pictures import Picture
from dinoforge.demo.server.problems import Problem
from dinoforge.demo.server.workers import Worker

__all__ = ["FeatureCache", "Side"]

Array = NDArray[Any]


class FeatureCache:
    """Arrays by what they were computed from; those used least recently leave first."""

    def __init__(self, limit: int = 512 << 20) -> None:
        self._limit, self._bytes = limit, 0
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Array | None:
        """Return an array, or None."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, array: Array) -> None:
        """Remember an array; it may be one that is known."""
        with self._lock:
            if key not in self._arrays:
                self._bytes += array.nbytes
            self._arrays[key] = array
            while self._bytes > self._limit:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class Side:
    """A network and the index that it made; the demo compares two of them, or has one."""

    network: Network
    index: Index
    size: int  # of `patch_grid`, for patches and attention of pictures
    cache: FeatureCache
    worker: Worker

    async def vector(self, picture: Picture) -> Array:
        """Return the unit vector ``[D]`` of a picture."""
        return await self._of(picture, "vector", lambda: self.network.vectors([picture.pixels])[0])

    async def patches(self, picture: Picture) -> Array:
        """Return the features of its patches, float16 ``[X, Y, D]``.

        Raises
        ------
        Problem
            409, if the network has none.
        """
        self._require(self.network.patch_size, "patches")
        return await self._of(
            picture, "patches", lambda: self.network.patches(picture.pixels, self.size)
        )

    async def attention(self, picture: Picture) -> Array:
        """Return the attention maps of its heads, float32 ``[H, X, Y]``; raises as `patches`."""
        self._require(self.network.num_heads, "attention maps")
        return await self._of(
            picture, "attention", lambda: self.network.attention(picture.pixels, self.size)
        )

    def has(self, picture: Picture, kind: str) -> bool:
        """Return whether the vector, the patches or the attention of a picture are known."""
        return self.cache.get(self._key(picture, kind)) is not None

    def _key(self, picture: Picture, kind: str) -> Hashable:
        return picture.digest, self.network.fingerprint, kind, self.size

    async def _of(self, picture: Picture, kind: str, make: Callable[[], Array]) -> Array:
        key = self._key(picture, kind)

        def job() -> Array:
            # Asked again: another request may have computed it while this one waited.
            array = self.cache.get(key)
            if array is None:
                array = make()
                self.cache.put(key, array)
            return array

        known = self.cache.get(key)
        return await self.worker.run(job) if known is None else known

    def _require(self, size: int, what: str) -> None:
        if not size:
            raise Problem(
                409,
                "no_patches",
                f"{self.network.name} has no {what}",
                "start the demo with a ViT: a training run, or checkpoint:FILE",
            )
