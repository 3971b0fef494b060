"""Read an object like a file: by offset, ahead where reads follow one another."""

import errno
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from dinoforge.remote.store import find_object, read_range

__all__ = ["Place", "RemoteFile", "RemoteStream", "map_ahead", "read_in_order"]

T = TypeVar("T")
R = TypeVar("R")
Place = tuple[str, int, int]  # URL, offset, size

# A request costs a round trip, in which a connection could have sent about 1 MiB: bytes between two
# reads that are fewer are cheaper to read than to skip. See benchmarks/object_store.py.
_GAP_BYTES = 1 << 20
_FIRST_BYTES = 1 << 17
_LARGEST_BYTES = 1 << 22  # memory per open object or request
_REQUESTS = 16  # at a time of one reader; all of a node have a limit, too: see `store`


class RemoteFile:
    """One object; threads may share it.

    ``num_bytes`` is its size, if known. A read that follows the one before it, with few bytes
    between the two, reads ahead, each time twice as much; any other reads what it needs.
    """

    def __init__(self, url: str, num_bytes: int | None = None) -> None:
        self.url, self.num_bytes = url, num_bytes
        self._block = (0, b"")  # where it begins; replaced as a whole
        self._last = (-1, 0)  # end of the last read, bytes read ahead after it

    def pread(self, size: int, at: int) -> bytes:
        """Read ``size`` bytes at an offset, as `os.pread`; fewer at the end if that is known.

        Raises
        ------
        OSError
            If there is no such object, or it ends too early.
        UsageError
            If the store refuses, or does not answer.
        """
        if self.num_bytes is not None:
            size = max(0, min(size, self.num_bytes - at))
        start, block = self._block
        inside = start <= at and at + size <= start + len(block)
        end, ahead = self._last
        if not inside:
            follows = 0 <= at - end <= _GAP_BYTES
            ahead = min(max(2 * ahead, _FIRST_BYTES), _LARGEST_BYTES) if follows else 0
            wanted = max(size, ahead)
            if self.num_bytes is not None:
                wanted = min(wanted, self.num_bytes - at)
            start, block = at, read_range(self.url, at, wanted, at_least=size)
            self._block = (start, block) if len(block) > size else (0, b"")
        self._last = (at + size, ahead)
        return block[at - start : at - start + size]


class RemoteStream(io.RawIOBase):
    """One object from its beginning to its end; for `io.BufferedReader`.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    """

    def __init__(self, url: str) -> None:
        entry = find_object(url)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", url)
        self._file, self._size, self._at = RemoteFile(url, entry.size), entry.size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        data = self._file.pread(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_in_order(
    places: Iterable[Place], read: Callable[[str, int, int], bytes | None]
) -> Iterator[bytes | None]:
    """Yield what ``read`` returns for each (URL, offset, size), with several requests at a time.

    Places of one object that follow each other closely are one request.
    """
    for contents in map_ahead(partial(_read_group, read=read), _join(places)):
        yield from contents


def map_ahead(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``call(item)`` in order; threads compute some of what follows in advance."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) == 2 * _REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _join(places: Iterable[Place]) -> Iterator[list[Place]]:
    group: list[Place] = []
    for url, offset, size in places:
        if group:
            end = group[-1][1] + group[-1][2]
            is_near = url == group[0][0] and 0 <= offset - end <= _GAP_BYTES
            if not is_near or offset + size - group[0][1] > _LARGEST_BYTES:
                yield group
                group = []
        group.append((url, offset, size))
    if group:
        yield group


def _read_group(
    group: Sequence[Place], read: Callable[[str, int, int], bytes | None]
) -> list[bytes | None]:
    (url, start, _), (_, last, size) = group[0], group[-1]
    data = read(url, start, last + size - start) if len(group) > 1 else None
    if data is None:  # one alone, or one of them cannot be read
        return [read(*place) for place in group]
    return [data[offset - start : offset - start + size] for _, offset, size in group]
