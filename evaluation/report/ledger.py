"""Read the ledger of a curation run: one row per input image, and its picture on demand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import ledger_path, resolve_shard
from dinoforge.images import Undecodable, decode
from dinoforge.pages import Thumbnail, thumbnail
from dinoforge.shards import RangeReader
from dinoforge.tables import read_table

__all__ = ["Ledger", "LedgerRow", "read_ledger"]

# What the report needs; the rest of a long table is not read.
_COLUMNS = (
    *("image_id", "key", "source", "role", "shard", "offset", "size", "decision", "reason"),
    *("detail", "duplicate_of", "similarity", "edge_i", "edge_j", "component", "seed_id", "rank"),
    *("score", "planted_from", "edit", "label"),
)


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One input image in the ledger; -1 and NaN stand for null."""

    image_id: int
    key: str
    source: str
    role: str
    decision: str
    reason: str
    detail: str
    duplicate_of: int
    similarity: float  # of the pair (edge_i, edge_j)
    edge_i: int
    edge_j: int
    seed_id: int
    rank: int
    score: float
    planted_from: int
    edit: str


@dataclass
class Ledger:
    """Columns of the ledger, sorted by ``image_id``.

    Pictures are read from the shards that the ledger names; None if missing or broken.
    """

    columns: dict[str, NDArray[Any]]
    run_folder: Path  # shards that the run made are named relative to it
    _reader: RangeReader = field(default_factory=RangeReader)
    _pictures: dict[tuple[int, int], Thumbnail | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    def rows(self, image_ids: Sequence[int]) -> list[LedgerRow]:
        """Rows of several images; unknown ids are left out."""
        rows = (self.row(image_id) for image_id in image_ids)
        return [row for row in rows if row is not None]

    def row(self, image_id: int) -> LedgerRow | None:
        """Row of an image; None for an unknown id."""
        at = self._position(image_id)
        if at is None:
            return None
        names = LedgerRow.__dataclass_fields__
        return LedgerRow(**{name: self.columns[name][at : at + 1].tolist()[0] for name in names})

    def image(self, image_id: int) -> NDArray[np.uint8] | None:
        """Decode a picture ``[H, W, 3]``; None if it cannot be read."""
        at = self._position(image_id)
        if at is None:
            return None
        shard = resolve_shard(self.run_folder, self["shard"][at])
        try:
            data = self._reader.read(shard, int(self["offset"][at]), int(self["size"][at]))
            return decode(data) if data else None
        except (OSError, Undecodable):
            return None

    def picture(self, image_id: int, *, side: int = 96) -> Thumbnail | None:
        """Thumbnail of an image, made once."""
        if (image_id, side) not in self._pictures:
            image = self.image(image_id)
            self._pictures[image_id, side] = None if image is None else thumbnail(image, side=side)
        return self._pictures[image_id, side]

    def _position(self, image_id: int) -> int | None:
        ids = self["image_id"]
        at = int(np.searchsorted(ids, image_id))
        return at if at < len(ids) and ids[at] == image_id else None


def read_ledger(run_folder: Path) -> Ledger | None:
    """Read the ledger of a run; None if the run has none (yet).

    Raises
    ------
    UsageError
        If the table is damaged.
    """
    path = ledger_path(run_folder)
    if not path.is_file():
        return None
    table = read_table(path, _COLUMNS)
    columns = {name: _values(table.column(name)) for name in _COLUMNS}
    order = np.argsort(columns["image_id"], kind="stable")
    return Ledger({name: values[order] for name, values in columns.items()}, run_folder)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Values of a column; "", -1 or NaN for null."""
    if pa.types.is_string(column.type):
        return column.fill_null("").to_numpy()
    if pa.types.is_floating(column.type):
        return column.cast("float64").fill_null(np.nan).to_numpy()
    return column.cast("int64").fill_null(-1).to_numpy()
