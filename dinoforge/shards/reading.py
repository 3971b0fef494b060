"""Read ranges of files, rows of tables and whole samples, from any thread and any process."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinoforge.files import open_regular, path_of_text
from dinoforge.remote import is_url
from dinoforge.remote.reading import RemoteFile
from dinoforge.shards.image_tables import RowReader, is_table
from dinoforge.shards.index import Sample, ShardIndex, index_shard

__all__ = ["RangeReader", "read_members", "read_samples"]


class _OpenFile:
    """A descriptor that is closed when its last reader drops it."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = open_regular(path)

    def pread(self, size: int, at: int) -> bytes:
        return os.pread(self.descriptor, size, at)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class RangeReader:
    """Read bytes by (path or URL, offset, size); keeps recently used files open.

    Reads do not move a file position, so threads and forked processes may share a reader. Pickling
    drops the open files, of which there are at most ``max_open``.
    """

    def __init__(self, max_open: int = 64) -> None:
        self._max_open = max_open
        self._start_empty()

    def _start_empty(self) -> None:
        self._files: OrderedDict[str, _OpenFile | RemoteFile] = OrderedDict()
        self._rows = RowReader()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return RangeReader, (self._max_open,)

    def read(self, path: str, offset: int, size: int) -> bytes:
        r"""Read exactly ``size`` bytes at ``offset``, of a table the image in row ``offset``.

        ``path`` is a text of `path_text`, or the path itself.

        Raises
        ------
        OSError
            If the file cannot be opened or read, or ends too early.
        UsageError
            If an object store refuses, or does not answer.
        """
        if is_table(path):
            return self._read_row(path, offset, size)
        file = self._open(path)
        pieces: list[bytes] = []
        left = size
        while left:
            piece = file.pread(left, offset + size - left)
            if not piece:
                raise OSError(f"{path} ends before byte {offset + size}")
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_row(self, path: str, row: int, size: int) -> bytes:
        if self._process != os.getpid():
            self._start_empty()
        content = self._rows.read(path if is_url(path) else path_of_text(path), row)
        if len(content) != size:
            raise OSError(f"{path}: the image in row {row} has {len(content)} bytes, not {size}")
        return content

    def _open(self, path: str) -> _OpenFile | RemoteFile:
        if self._process != os.getpid():  # forked: the parent may hold the lock
            self._start_empty()
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = RemoteFile(path) if is_url(path) else _open_named(path)
                self._files[path] = file
                if len(self._files) > self._max_open:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(path)
            return file


def _open_named(path: str) -> _OpenFile:
    if (decoded := path_of_text(path)) != path:
        with contextlib.suppress(FileNotFoundError):
            return _OpenFile(decoded)
    return _OpenFile(path)


def read_members(reader: RangeReader, path: str, sample: Sample) -> dict[str, bytes]:
    """Read all members of one sample: extension -> bytes."""
    return {e: reader.read(path, m.offset, m.size) for e, m in sample.members.items()}


def read_samples(shard: Path | str | ShardIndex) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield ``(key, {extension: bytes})`` of the usable samples in the order of the tar.

    `index_shard` reports what is wrong with the tar.
    """
    index = shard if isinstance(shard, ShardIndex) else index_shard(shard)
    reader = RangeReader(max_open=1)
    for sample in index.samples:
        yield sample.key, read_members(reader, index.path, sample)
