"""Random access to images: decoded by position, with keys and classes."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.shards.index import Problem, summarize_reasons
from dinoforge.shards.reading import RangeReader
from dinoforge.sources.accounting import Account
from dinoforge.sources.classes import ClassList
from dinoforge.sources.listing import list_images
from dinoforge.sources.numbering import unite_classes

__all__ = ["ImageSet", "open_images"]


class ImageSet:
    """Images by position; can be pickled, without its open files.

    ``table`` has rows of `LISTING_SCHEMA`; ``problems`` are those of files that are not images;
    ``class_lists`` are the lists of classes by class space.
    """

    def __init__(
        self,
        table: pa.Table,
        policy: DecodePolicy,
        problems: Sequence[Problem] = (),
        class_lists: Mapping[str, ClassList] = MappingProxyType({}),
    ) -> None:
        self.table = table.combine_chunks()
        self.policy = policy
        self.problems = list(problems)
        self.class_lists = dict(class_lists)
        self._shards = self.table.column("shard").combine_chunks().dictionary_encode()
        self._shard_of = self._shards.indices.to_numpy()
        self._paths: list[str] = self._shards.dictionary.to_pylist()
        self._offsets = self.table.column("offset").to_numpy()
        self._sizes = self.table.column("size").to_numpy()
        self._reader = RangeReader()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._sizes)

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image.

        Raises
        ------
        Undecodable
            If the file is gone or shorter than it was.
        """
        path = self._paths[self._shard_of[index]]
        try:
            return self._reader.read(path, int(self._offsets[index]), int(self._sizes[index]))
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
        return Account.of(len(self), self.problems, undecodable=undecodable)

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

    Raises
    ------
    UsageError
        If a path is missing or contains no image.
    """
    listing = list_images(paths, unpacked=Path(cache) / "unpacked")
    if not listing.table.num_rows:
        raise UsageError(
            what=f"no images{summarize_reasons(listing.problems)}",
            where=", ".join(paths),
            do="give a folder, tar or curation run that contains images",
        )
    policy = policy or DecodePolicy()
    return ImageSet(listing.table, policy, listing.problems, listing.class_lists)
