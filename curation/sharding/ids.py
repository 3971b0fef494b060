"""Lists of ids that choose samples: text, CSV, Parquet, and the uid files of DataComp."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.config import suggest
from dinoforge.curation.sharding.config import IdsConfig
from dinoforge.curation.sharding.index import digest
from dinoforge.errors import UsageError, damaged, some_of
from dinoforge.files import decode_text, read_regular
from dinoforge.remote import is_url
from dinoforge.remote.copies import fingerprint_list
from dinoforge.tables import iter_row_groups, open_table

__all__ = ["Wanted", "as_digests", "check_ids"]

_UID_BYTES = 16


class Wanted:
    """The ids of a list: which samples have one, and which ids no sample has.

    Ids are compared by digests of 128 bits, which take 16 bytes each.
    """

    def __init__(self, ids: Iterator[str], where: str) -> None:
        digests = np.frombuffer(b"".join(map(digest, ids)), "S16")
        self.listed = len(digests)
        self._sorted = np.unique(digests)
        self._met = np.zeros(len(self._sorted), bool)
        if not self.listed:
            do = "give a list with at least one id"
            raise UsageError(what="the list of ids is empty", where=where, do=do)

    @classmethod
    def read(cls, file: str, column: str, field: str) -> "Wanted":
        """Read a list; see `ids` of the recipe.

        Raises
        ------
        UsageError
            If it cannot be read, is empty, or has no such column.
        """
        return cls(_read(Path(file), column, field), file)

    def match(self, digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Return which samples are listed, ``S16`` each; what was met is remembered."""
        at = np.minimum(np.searchsorted(self._sorted, digests), len(self._sorted) - 1)
        is_listed: NDArray[np.bool_] = self._sorted[at] == digests
        self._met[at[is_listed]] = True
        return is_listed

    @property
    def repeated(self) -> int:
        """Ids that are listed again."""
        return self.listed - len(self._sorted)

    @property
    def unmatched(self) -> int:
        """Ids that no sample has."""
        return int(np.count_nonzero(~self._met))


def check_ids(config: IdsConfig) -> None:
    """Raise a `UsageError` if a list is missing, or has no such column; reads only its start."""
    if is_url(config.file):
        fingerprint_list(config.file)
    elif config.file:
        next(_read(Path(config.file), config.column, config.field), None)


def _read(path: Path, column: str, field: str) -> Iterator[str]:
    try:
        if path.suffix == ".npy":
            yield from _read_uids(path)
        elif path.suffix == ".parquet":
            yield from _read_parquet(path, column, field)
        elif path.suffix in {".csv", ".tsv"}:
            yield from _read_csv(path, column, field)
        else:
            lines = decode_text(read_regular(path)).splitlines()
            yield from (line for line in map(str.strip, lines) if line)
    except FileNotFoundError as error:
        do = "check the path"
        raise UsageError(what="no such list of ids", where=str(path), do=do) from error
    except (OSError, ValueError, csv.Error) as error:
        raise damaged(path, error, kind="list of ids") from error


def _read_uids(path: Path) -> Iterator[str]:
    """Read pairs of uint64 as 32 hexadecimal digits, as DataComp's metadata has them."""
    pairs = np.load(path, mmap_mode="r", allow_pickle=False)
    if pairs.itemsize == _UID_BYTES and pairs.ndim == 1:  # a structure of two
        pairs = pairs.view(np.uint64).reshape(-1, 2)
    if pairs.dtype != np.uint64 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{pairs.dtype} {list(pairs.shape)}, need two uint64 per id")
    for start in range(0, len(pairs), 1 << 16):
        for high, low in pairs[start : start + (1 << 16)].tolist():
            yield f"{high:016x}{low:016x}"


def _read_parquet(path: Path, column: str, field: str) -> Iterator[str]:
    if not path.exists():
        raise FileNotFoundError
    with open_table(path) as file:
        name = _choose(file.schema_arrow.names, column, field, path)
    for group in iter_row_groups(path, [name]):
        values = group.column(name)
        yield from (str(value) for value in values.drop_null().to_pylist())


def _read_csv(path: Path, column: str, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(reader, [])
        at = header.index(_choose(header, column, field, path))
        yield from (row[at] for row in reader if len(row) > at and row[at])


def _choose(names: Sequence[str], column: str, field: str, path: Path) -> str:
    """Return the column that holds the ids."""
    wanted = [column] if column else [field or "key"]
    for name in wanted:
        if name in names:
            return name
    if not column and len(names) == 1:
        return names[0]
    raise UsageError(
        what=f"no column `{wanted[0]}` in the list of ids{suggest(wanted[0], names)}",
        where=str(path),
        do=f"give ids.column, one of {some_of(names, 12)}",
    )


def as_digests(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Return a column of digests as ``S16``; null as an empty one, which no id has."""
    filled = column.fill_null(bytes(_UID_BYTES)).combine_chunks()
    parts = filled.chunks if isinstance(filled, pa.ChunkedArray) else [filled]
    views = [
        np.frombuffer(part.buffers()[1], "S16")[part.offset : part.offset + len(part)]
        for part in parts
    ]
    return np.concatenate([np.empty(0, "S16"), *views])
