"""Read the bytes of images where the sources have them, and decode again what decoded before."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import resolve_shard
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.remote import is_url
from dinoforge.remote.reading import read_in_order
from dinoforge.shards.image_tables import is_table
from dinoforge.shards.reading import RangeReader

__all__ = ["ImageReader", "decode_again", "decode_each"]


class ImageReader:
    """Read the bytes of images by location; keeps up to 32 shards open.

    ``folders`` are those of `resolve_shard`.
    """

    def __init__(self, run_folder: Path, folders: Sequence[Path] = ()) -> None:
        self._run_folder, self._folders, self._reader = run_folder, folders, RangeReader(32)
        self._last = ("", "")  # shard and path of the last image: most follow in the same shard

    def read(self, shard: str, offset: int, size: int) -> bytes | None:
        """Read an image; None when its bytes cannot be read.

        Raises
        ------
        UsageError
            If the shard no longer exists.
        """
        try:
            last = self._last  # threads may share the reader
            if shard != last[0]:
                last = self._last = (shard, resolve_shard(self._run_folder, shard, self._folders))
            return self._reader.read(last[1], offset, size)
        except FileNotFoundError as error:
            raise UsageError(
                what="image file no longer exists",
                where=shard,
                do="sources must stay while the run reads them: restore it, or start with --fresh",
            ) from error
        except OSError:
            return None

    def read_each(self, locations: pa.Table) -> Iterator[bytes | None]:
        """Read the image of each row (columns shard, offset, size), in order; see `read`."""
        return (read() for read in self.reads_of_each(locations))

    def reads_of_each(self, locations: pa.Table) -> Iterator[Callable[[], bytes | None]]:
        """Yield a function per row that returns its bytes; threads may call it, in any order.

        Ranges of objects in a store are read before, by requests that cover several images.
        """
        columns = (locations.column(name).to_pylist() for name in ("shard", "offset", "size"))
        rows = zip(*columns, strict=True)
        for is_range, places in itertools.groupby(rows, lambda place: _is_remote_range(place[0])):
            if is_range:
                yield from (partial(_same, data) for data in read_in_order(places, self.read))
            else:
                yield from (partial(self.read, *place) for place in places)


def _same(data: bytes | None) -> bytes | None:
    return data


def _is_remote_range(shard: str) -> bool:
    return is_url(shard) and not is_table(shard)


def decode_each(inputs: CurationInputs, locations: pa.Table) -> Iterator[NDArray[np.uint8]]:
    """Decode the image of each row of `tables.read_locations`, in order: ``[H, W, 3]``, RGB.

    Raises
    ------
    UsageError
        If one no longer decodes, or its file no longer exists.
    """
    for data in ImageReader(inputs.run_folder).read_each(locations):
        yield decode_again(data, inputs.config.decode)


def decode_again(data: bytes | None, policy: DecodePolicy) -> NDArray[np.uint8]:
    """Decode an image that decoded before: ``[H, W, 3]``, RGB; see `decode_each`."""
    try:
        return decode(data or b"", policy)
    except Undecodable as bad:
        raise UsageError(
            what=f"an image that decoded before no longer does ({bad})",
            where="`sources`",
            do="sources must stay while the run reads them: restore it, or start with --fresh",
        ) from bad
