"""Vectors that the user has already: a Parquet file, or a ``.npy`` beside a table of keys."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Fitting, Images, Vectors, unit_rows
from dinoforge.errors import UsageError, damaged, some_of
from dinoforge.files import hash_json
from dinoforge.tables import open_table

__all__ = ["StoredVectors"]

_KEYS = ("key", "uid", "id")
_DO = "give a Parquet file with `key` and a column of vectors, or FILE.npy beside FILE.parquet"

# Keys, and the row of each in an array [n, D] of vectors.
_Block = tuple[pa.ChunkedArray, NDArray[np.int64], NDArray[np.floating]]


class StoredVectors(Fitting):
    """Looks vectors up by the keys of images, which must be in the file, each once.

    ``path`` is a Parquet file with a column ``key`` (``uid``, ``id``) and one of vectors (lists of
    floats); an array ``.npy`` ``[n, D]`` whose rows are those of a Parquet file of the same name;
    or a folder that ``dinoforge embed`` made. It is an `Encoder` that cannot encode.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"stored:{path}"
        is_folder = path.is_dir()
        if not is_folder and path.suffix not in {".parquet", ".npy"}:
            raise UsageError(what="no file of vectors", where=self.name, do=_DO)
        self._table = path / "rows.parquet" if is_folder else path.with_suffix(".parquet")
        self._array = path / "embeddings.npy" if is_folder else path.with_suffix(".npy")
        files = [self._table] if path.suffix == ".parquet" else [self._table, self._array]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise UsageError(what="no such file", where=missing[0], do=_DO)
        self._is_array = len(files) > 1
        with open_table(self._table) as file:
            schema = file.schema_arrow
        self._key = self._column([name for name in _KEYS if name in schema.names], _KEYS[0])
        lists = [] if self._is_array else [f.name for f in schema if _is_vector(f.type)]
        self._rows = "row" if "row" in schema.names else ""  # as `dinoforge embed` writes
        self._vector = "" if self._is_array else self._column(lists, "of vectors")
        self.dim = next((vectors.shape[1] for _, _, vectors in self._blocks()), 0)
        # By size and time: gigabytes are not read again for a fingerprint.
        stats = [file.stat() for file in files]
        self.fingerprint = hash_json([[each.st_size, each.st_mtime_ns] for each in stats])

    def encode(self, images: Images) -> Vectors:  # noqa: ARG002 - the interface
        """Refuse: the vectors of these images are not known by their pixels."""
        raise UsageError(
            what="stored vectors are of the images of a curation",
            where=self.name,
            do="give another encoder here",
        )

    def look_up(self, keys: Sequence[str]) -> Vectors:
        """Return the unit rows of images, float32 ``[n, dim]``.

        Raises
        ------
        UsageError
            If an image is not in the file, two images or two rows have the same key, or a row is
            not finite.
        """
        wanted = pa.array(keys, pa.string())
        if len(pc.unique(wanted)) < len(keys):
            do = "make the keys unique, as `dinoforge shard` does"
            raise UsageError(what="two images have the same key", where=self.name, do=do)
        vectors = np.zeros((len(keys), self.dim), np.float32)
        times = np.zeros(len(keys), np.int64)
        for block, rows, array in self._blocks():
            at = pc.index_in(block.cast(pa.string()), value_set=wanted)
            to, row = at.drop_null().to_numpy(), rows[at.is_valid().to_numpy()]
            vectors[to[row >= 0]] = array[row[row >= 0]]  # below 0: it did not decode
            np.add.at(times, to, 1)
        for faulty, fault in ((times == 0, "are not in it"), (times > 1, "are in it repeatedly")):
            if faulty.any():
                named = some_of([keys[at] for at in np.flatnonzero(faulty)[:20].tolist()])
                what = f"{np.count_nonzero(faulty):,} of {len(keys):,} images {fault}: {named}"
                do = "compare its keys with those of the sources"
                raise UsageError(what=what, where=self.name, do=do)
        if not np.isfinite(vectors).all():
            do = "compute them again"
            raise UsageError(what="vectors that are not finite", where=self.name, do=do)
        return unit_rows(vectors)

    def _column(self, names: Sequence[str], wanted: str) -> str:
        if len(names) == 1 or (names and wanted in names):
            return names[0]
        what = f"{len(names) or 'no'} columns {wanted}"
        raise UsageError(what=what, where=str(self._table), do=_DO)

    def _blocks(self) -> Iterator[_Block]:
        try:
            array = np.load(self._array, mmap_mode="r") if self._is_array else None
        except (OSError, ValueError) as error:
            raise damaged(self._array, error, kind="array") from error
        with open_table(self._table) as file:
            if array is not None and not self._rows and len(array) != file.metadata.num_rows:
                raise UsageError(
                    what=f"{len(array):,} vectors, {file.metadata.num_rows:,} keys",
                    where=str(self._table),
                    do="write one row per vector, in the same order",
                )
            start = 0
            columns = [self._key, *filter(None, (self._vector, self._is_array and self._rows))]
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                rows = np.arange(table.num_rows)
                if array is None:
                    yield table.column(self._key), rows, self._matrix(table.column(self._vector))
                else:
                    rows = table.column("row").to_numpy() if self._rows else start + rows
                    yield table.column(self._key), rows, array
                start += table.num_rows

    def _matrix(self, column: pa.ChunkedArray) -> NDArray[np.floating]:
        """Return lists of equal lengths as rows."""
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            what = f"vectors of several lengths: {some_of(lengths)}"
            raise UsageError(what=what, where=str(self._table), do="write vectors of one length")
        values: NDArray[np.floating] = pc.list_flatten(column).to_numpy()
        return values.reshape(len(column), lengths[0])


def _is_vector(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of floats."""
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in is_list) and pa.types.is_floating(kind.value_type)
