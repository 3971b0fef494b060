"""Write WebDataset shards: atomically, and equal samples give equal bytes."""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import cannot_write
from dinoforge.files import fsync_folder, temporary_name
from dinoforge.shards.sidecar import ShardFacts, write_sidecar
from dinoforge.shards.tar import BLOCK, MemberName, split_member_name

__all__ = ["ShardWriter", "WrittenShard", "cut_shards", "sample_bytes"]

_RECORD = 20 * BLOCK  # tars are padded to whole records


@dataclass(frozen=True)
class WrittenShard:
    """A finished shard and the content of its checksum file."""

    path: Path
    facts: ShardFacts


class ShardWriter:
    """Write samples into ``{name}-{000000}.tar``, each with a checksum file beside it.

    A context manager: after an exception only finished shards remain. Bytes are copied unchanged;
    times, owners and modes are constant. A sample larger than ``max_bytes`` gets its own shard;
    ``first`` is the number of the first one.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        max_samples: int = 10_000,
        max_bytes: int = 512 << 20,
        *,
        first: int = 0,
    ) -> None:
        self._folder = Path(folder)
        self._name = name
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._number = first
        self._open: _OpenShard | None = None
        self.shards: list[WrittenShard] = []

    def write(self, key: str, members: Mapping[str, bytes]) -> str:
        """Append a sample and return the file name of its shard.

        ``key`` may contain folders, but no dot in its last part: readers would split it there.
        ``members`` maps extensions (``"jpg"``, ``"seg.png"``) to bytes, written in this order.

        Raises
        ------
        ValueError
            If readers would see another key, or the key is already in this shard: a bug of the
            caller.
        UsageError
            If the folder is read-only or the disk is full.
        """
        blocks = [(_header(key, extension, len(data)), data) for extension, data in members.items()]
        num_bytes = sum(len(header) + _padded(len(data), BLOCK) for header, data in blocks)
        try:
            if self._open is not None and self._is_full(self._open, num_bytes):
                self._finish()
            if self._open is None:
                self._open = _OpenShard(self._path())
            self._open.write(key, blocks)
        except OSError as error:
            self._abandon()
            raise cannot_write(self._path(), error) from error
        return self._open.path.name

    def close(self) -> None:
        """Finish the last shard."""
        try:
            if self._open is not None:
                self._finish()
        except OSError as error:
            raise cannot_write(self._path(), error) from error
        finally:
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:06d}.tar"

    def _is_full(self, shard: "_OpenShard", num_bytes: int) -> bool:
        total = _padded(shard.num_bytes + num_bytes + 2 * BLOCK, _RECORD)
        return len(shard.keys) >= self._max_samples or total > self._max_bytes

    def _finish(self) -> None:
        assert self._open is not None, "no shard is open"
        self.shards.append(WrittenShard(self._open.path, self._open.finish()))
        self._open = None
        self._number += 1

    def _abandon(self) -> None:
        if self._open is not None:
            self._open.abandon()
            self._open = None


class _OpenShard:
    """The temporary file of an unfinished shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: set[str] = set()
        self.num_bytes = 0
        self._members = 0
        self._digest = hashlib.sha256()
        self._temporary = temporary_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._temporary.open("wb")

    def write(self, key: str, blocks: list[tuple[bytes, bytes]]) -> None:
        if key in self.keys:
            raise ValueError(f"key {key!r} is in {self.path.name} already")
        self.keys.add(key)
        for header, data in blocks:
            self._put(b"".join((header, data, bytes(-len(data) % BLOCK))))
        self._members += len(blocks)

    def finish(self) -> ShardFacts:
        self._put(bytes(_padded(self.num_bytes + 2 * BLOCK, _RECORD) - self.num_bytes))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        facts = ShardFacts(
            samples=len(self.keys),
            members=self._members,
            num_bytes=self.num_bytes,
            sha256=self._digest.hexdigest(),
        )
        # The checksum file is written first, so that every shard that exists can be checked.
        write_sidecar(self.path, facts)
        self._temporary.replace(self.path)
        fsync_folder(self.path.parent)
        return facts

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)


def _padded(size: int, unit: int) -> int:
    return (size + unit - 1) // unit * unit


def _header(key: str, extension: str, size: int) -> bytes:
    name = f"{key}.{extension}"
    parts = split_member_name(name)
    if not extension or parts != MemberName(key, extension, is_safe=True):
        raise ValueError(f"member name {name!r} does not give back its key and extension")
    if len(name) > _NAME_BYTES or not name.isascii() or size > _SIZE_LIMIT:
        return _tarfile_header(name, size)
    # What tarfile makes of a short ASCII name, in a sixth of its time.
    digits = b"%011o\0" % size
    field = name.encode()
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(field) + sum(digits))
    before_size, before_checksum, rest = _BETWEEN
    named = field.ljust(_NAME_BYTES, b"\0")
    return b"".join((named, before_size, digits, before_checksum, checksum, rest))


def _tarfile_header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_NAME_BYTES, _SIZE_LIMIT = 100, 8**11 - 1  # what the fields of a header hold
_EMPTY = _tarfile_header("", 0)
# What follows the fields name, size and checksum.
_BETWEEN = (_EMPTY[_NAME_BYTES:124], _EMPTY[136:148], _EMPTY[156:])
_TEMPLATE_SUM = sum(map(sum, _BETWEEN)) + 8 * 0x20  # the checksum counts its own field as spaces


def sample_bytes(key: str, members: Iterable[tuple[str, int]]) -> int:
    """Return the bytes that a sample takes in a tar, by extension and size of its members."""
    total = 0
    for extension, size in members:
        name = f"{key}.{extension}"
        is_short = len(name) <= _NAME_BYTES and name.isascii() and size <= _SIZE_LIMIT
        header = BLOCK if is_short else len(_tarfile_header(name, size))
        total += header + _padded(size, BLOCK)
    return total


def cut_shards(num_bytes: NDArray[np.int64], max_samples: int, max_bytes: int) -> NDArray[np.int64]:
    """Return the first position of every shard, given the bytes of every sample, in order.

    A shard holds at most ``max_samples``, and at most ``max_bytes`` unless one sample is larger.
    """
    ends = np.cumsum(num_bytes)
    starts: list[int] = []
    start = 0
    while start < len(num_bytes):
        starts.append(start)
        before = int(ends[start - 1]) if start else 0
        fits = int(np.searchsorted(ends, before + max_bytes, side="right"))
        start = min(max(fits, start + 1), start + max_samples)
    return np.array(starts, np.int64)
