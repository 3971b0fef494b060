"""Random access to images: decoded by position, with keys and classes."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.remote import is_url
from dinoforge.remote.reading import read_in_order
from dinoforge.shards.image_tables import is_table
from dinoforge.shards.index import Problem, summarize_reasons
from dinoforge.shards.reading import RangeReader
from dinoforge.sources.accounting import Account
from dinoforge.sources.classes import ClassList
from dinoforge.sources.kept_listing import list_images
from dinoforge.sources.numbering import unite_classes

__all__ = ["ImageSet", "open_images"]


class ImageSet:
    """Images by position; can be pickled, without its open files.

    ``table`` has rows of `LISTING_SCHEMA`; ``problems`` are those of files that are not images;
    ``class_lists`` are the lists of classes by class space; ``failed`` counts by status what
    img2dataset did not get of the sources.
    """

    def __init__(
        self,
        table: pa.Table,
        policy: DecodePolicy,
        problems: Sequence[Problem] = (),
        class_lists: Mapping[str, ClassList] = MappingProxyType({}),
        failed: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.table = table.combine_chunks()
        self.policy = policy
        self.problems = list(problems)
        self.class_lists = dict(class_lists)
        self.failed = Counter(failed)
        self._shards = self.table.column("shard").combine_chunks().dictionary_encode()
        self._shard_of = self._shards.indices.to_numpy()
        self._paths: list[str] = self._shards.dictionary.to_pylist()
        self._offsets = self.table.column("offset").to_numpy()
        self._sizes = self.table.column("size").to_numpy()
        self._reader = RangeReader()
        self._fetched: dict[int, bytes | None] = {}  # None: it cannot be read

    def __len__(self) -> int:
        """Count the images."""
        return len(self._sizes)

    def fetch(self, indices: Iterable[int]) -> None:
        """Read images of object stores with several requests at a time; `read` returns each once.

        A random read costs a round trip, so those of a batch go together. Others are not read here.

        Raises
        ------
        UsageError
            If the store refuses, or does not answer.
        """
        places = {index: self._place(index) for index in indices if self._is_remote_range(index)}
        if places:
            self._fetched = dict(
                zip(places, read_in_order(places.values(), self._read_or_none), strict=True)
            )

    def decoders_of(
        self, indices: Iterable[int]
    ) -> Iterator[tuple[int, Callable[[], NDArray[np.uint8]]]]:
        """Yield each index with a function that decodes the image as `decode` does.

        Threads may call these, in any order. Images of object stores are read before, ahead of
        the ones that are taken, by several requests at a time.
        """
        for is_far, some in itertools.groupby(indices, self._is_remote_range):
            if not is_far:
                yield from ((index, partial(self.decode, index)) for index in some)
                continue
            far = list(some)
            for index, data in zip(
                far, read_in_order(map(self._place, far), self._read_or_none), strict=True
            ):
                yield index, partial(self._decode_read, index, data)

    def _decode_read(self, index: int, data: bytes | None) -> NDArray[np.uint8]:
        return self.decode(index) if data is None else decode(data, self.policy)

    def _place(self, index: int) -> tuple[str, int, int]:
        path = self._paths[self._shard_of[index]]
        return path, int(self._offsets[index]), int(self._sizes[index])

    def _is_remote_range(self, index: int) -> bool:
        path = self._paths[self._shard_of[index]]
        return is_url(path) and not is_table(path)

    def _read_or_none(self, path: str, offset: int, size: int) -> bytes | None:
        try:
            return self._reader.read(path, offset, size)
        except OSError:
            return None

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image.

        Raises
        ------
        Undecodable
            If the file is gone or shorter than it was.
        """
        if (data := self._fetched.pop(index, None)) is not None:
            return data
        try:
            return self._reader.read(*self._place(index))
        except OSError as error:
            raise Undecodable("unreadable", error.strerror or str(error)) from error

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Return upright RGB ``[H, W, 3]``, uint8.

        Raises
        ------
        Undecodable
            If the bytes cannot be decoded.
        """
        return decode(self.read(index), self.policy)

    def account(self, *, undecodable: int = 0) -> Account:
        """Count what the sources gave and what they did not."""
        return Account.of(
            len(self), self.problems, undecodable=undecodable, not_downloaded=self.failed
        )

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class per image, one number per class of all class spaces; -1: none.

        Raises a `UsageError` for labels that contradict each other; see `unite_classes`.
        """
        return unite_classes([self.table], [self.class_lists]).labels(self.table)


def open_images(
    paths: Sequence[str], *, cache: Path, policy: DecodePolicy | None = None
) -> ImageSet:
    """Open the images behind some paths (`discover_files`); uncompress tars in ``cache``.

    There are also the listings of buckets, which later calls read.

    Raises
    ------
    UsageError
        If a path is missing or contains no image.
    """
    listing = list_images(
        paths, unpacked=Path(cache) / "unpacked", listings=Path(cache) / "listings"
    )
    if not listing.table.num_rows:
        raise UsageError(
            what=f"no images{summarize_reasons(listing.problems)}",
            where=", ".join(paths),
            do="give a folder, tar or curation run that contains images",
        )
    policy = policy or DecodePolicy()
    return ImageSet(
        listing.table, policy, listing.problems, listing.class_lists, failed=listing.failed
    )
