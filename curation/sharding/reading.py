"""The bytes of samples: from their sources, or from where `scatter` has put them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.sharding.tables import ShardingInputs
from dinoforge.errors import UsageError
from dinoforge.files import path_text
from dinoforge.shards.reading import RangeReader

__all__ = ["SampleReader", "Scattered", "scattered_file"]

_GAP_BYTES = 8192  # per member: what lies between members of a sample is headers and padding
_MAX_OPEN = 256


class SampleReader:
    """Reads all members of a sample."""

    def __init__(self) -> None:
        self._reader = RangeReader(max_open=_MAX_OPEN)

    def read(
        self, files: Sequence[str], offsets: Sequence[int], sizes: Sequence[int]
    ) -> list[bytes]:
        """Return the bytes of every member; ``files`` is one tar, or one file per member.

        Raises
        ------
        UsageError
            If a source is gone or shorter than it was.
        """
        try:
            if len(files) > 1 or len(offsets) == 1:
                every = files if len(files) > 1 else [files[0]]
                return [
                    self._reader.read(*member) for member in zip(every, offsets, sizes, strict=True)
                ]
            first, total = min(offsets), sum(sizes)
            span = max(at + size for at, size in zip(offsets, sizes, strict=True)) - first
            if span > total + _GAP_BYTES * len(sizes):
                rows = zip(offsets, sizes, strict=True)
                return [self._reader.read(files[0], at, size) for at, size in rows]
            data = self._reader.read(files[0], first, span)
            rows = zip(offsets, sizes, strict=True)
            return [data[at - first : at - first + size] for at, size in rows]
        except OSError as error:
            raise UsageError(
                what=f"a sample can no longer be read: {error}",
                where=files[0],
                do="sources must stay while the run reads them: restore it",
            ) from error

    def read_scattered(self, file: str, offset: int, sizes: Sequence[int]) -> list[bytes]:
        """Return the members of a sample that lie one behind the other."""
        data = self._reader.read(file, offset, sum(sizes))
        ends = np.cumsum(sizes).tolist()
        return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def scattered_file(table: Path) -> Path:
    """Return the file of the bytes that belong to a table of places of `scatter`."""
    return table.with_name(table.name.replace("places.npy", "bytes"))


@dataclass(frozen=True)
class Scattered:
    """Where the samples of a range of places are."""

    files: list[str]
    number: NDArray[np.int64]  # of the file, by place
    offset: NDArray[np.int64]

    @classmethod
    def locate(cls, inputs: ShardingInputs, first: int, stop: int) -> "Scattered | None":
        """Find the samples of the places ``[first, stop)``; None if their files are gone.

        They are removed at the end of a run; the sources have the same bytes.
        """
        number, offset = np.full(stop - first, -1), np.empty(stop - first, np.int64)
        tables = inputs.files("scatter", "places.npy")
        files = [scattered_file(table) for table in tables]
        for at, table in enumerate(tables):
            place, offsets = np.load(table, mmap_mode="r")
            here = slice(*np.searchsorted(place, [first, stop]))
            number[place[here] - first] = at
            offset[place[here] - first] = offsets[here]
        if not tables or not all(files[at].exists() for at in np.unique(number).tolist()):
            return None
        return cls([path_text(file) for file in files], number, offset)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield file and offset of every place."""
        for number, offset in zip(self.number.tolist(), self.offset.tolist(), strict=True):
            yield self.files[number], offset
