"""The pictures that requests name by id: in memory, for half an hour, the oldest leave first."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.server.problems import Problem

__all__ = ["Picture", "Pictures"]

_LIFE_S = 30 * 60  # since it was last used
_BYTES = 256 << 20


@dataclass(frozen=True)
class Picture:
    """What the networks see: pixels uint8 ``[H, W, 3]``, and their hash."""

    pixels: NDArray[np.uint8]
    digest: str

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Picture":
        """Hash pixels and their shape."""
        hash_ = hashlib.sha256(repr(pixels.shape).encode())
        hash_.update(np.ascontiguousarray(pixels).data)
        return cls(pixels, hash_.hexdigest())


class Pictures:
    """Pictures by random ids, which cannot be guessed by another client."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, tuple[float, Picture]] = OrderedDict()  # oldest first
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> str:
        """Keep a picture; returns its id."""
        id_ = secrets.token_urlsafe(12)
        with self._lock:
            self._pictures[id_] = (time.monotonic(), picture)
            self._bytes += picture.pixels.nbytes
            self._forget()
        return id_

    def get(self, id_: str) -> Picture:
        """Return a picture, which lives on for another half hour.

        Raises
        ------
        Problem
            404, if it is unknown or has expired.
        """
        with self._lock:
            self._forget()
            if id_ not in self._pictures:
                hint = "pictures stay in memory for 30 minutes, never on disk: add it again"
                raise Problem(404, "expired", "this picture has expired", hint)
            picture = self._pictures[id_][1]
            self._pictures[id_] = (time.monotonic(), picture)
            self._pictures.move_to_end(id_)
            return picture

    def _forget(self) -> None:
        expired = time.monotonic() - _LIFE_S
        while self._pictures:
            used, picture = next(iter(self._pictures.values()))
            if used > expired and (self._bytes <= _BYTES or len(self._pictures) == 1):
                return
            self._pictures.popitem(last=False)
            self._bytes -= picture.pixels.nbytes
