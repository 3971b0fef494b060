"""The ledger of a curation run: rows, pictures on demand, and the counts of every reason."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.config import config_of
from dinoforge.curated import REASONS, generation_folders, ledger_path, resolve_shard
from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.pages.thumbnails import Thumbnail, thumbnail
from dinoforge.runs import read_recipe, working_folders
from dinoforge.shards.reading import RangeReader
from dinoforge.tables import read_table
from dinoforge.verification.drawing import draw_evidence

__all__ = ["Funnel", "FunnelStep", "Ledger", "LedgerRow", "make_funnel", "read_ledger"]

# What the report needs; the rest of a long table is not read.
_COLUMNS = (
    *("image_id", "key", "source", "role", "shard", "offset", "size", "decision", "reason"),
    *("detail", "duplicate_of", "similarity", "places", "edge_i", "edge_j", "component"),
    *("seed_id", "rank", "cluster", "rule"),
    *("score", "planted_from", "edit", "label"),
)

_LABELS = {
    "undecodable": "cannot be decoded",
    "too_small": "too small",
    "bad_aspect": "too narrow",
    "flat": "flat (one gray value)",
    "filtered_out": "do not meet filter.where",
    "missing_value": "without a value that filter.where needs",
    "reference": "reference images (compared only)",
    "exact_duplicate": "exact duplicates",
    "near_duplicate": "near-duplicates",
    "leak": "reference leaks",
    "not_retrieved": "not retrieved for any seed",
    "not_balanced": "more than the share of their cluster",
    "excluded": "like an example of what a rule excludes",
    "seed": "seeds",
    "as_is": "kept as is",
    "retrieved": "retrieved for a seed",
    "kept": "remaining pool images",
    "taken_down": "taken down",
}
# Reasons whose ledger column `detail` starts with a cause.
_SPLIT = frozenset({"undecodable", "exact_duplicate", "leak"})


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
    similarity: float  # of the pair (edge_i, edge_j): cosine, or correlation if it has places
    places: int
    edge_i: int
    edge_j: int
    seed_id: int
    rank: int
    score: float
    rule: str
    planted_from: int
    edit: str


@dataclass
class Ledger:
    """Columns of the ledgers of a run and of those that it adds to: an image id is a position.

    Pictures are read from the shards that the ledger names; None if missing or broken.
    """

    columns: dict[str, NDArray[Any]]
    run_folder: Path  # shards that the run made are named relative to it
    folders: Sequence[Path] = ()  # where other relative names may start, see `resolve_shard`
    first: int = 0  # id of the first image of the run itself; what is counted begins here
    earlier: "Ledger | None" = None  # that of the run that it adds to
    policy: DecodePolicy = field(default_factory=DecodePolicy)  # the run's
    _reader: RangeReader = field(default_factory=RangeReader)
    _pictures: dict[tuple[int, int], Thumbnail | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    def row(self, image_id: int) -> LedgerRow:
        """Row of an image."""
        names = LedgerRow.__dataclass_fields__
        return LedgerRow(**{name: self.columns[name].item(image_id) for name in names})

    def image(self, image_id: int) -> NDArray[np.uint8] | None:
        """Decode a picture ``[H, W, 3]``; None if it cannot be read."""
        if self.earlier is not None and image_id < self.first:
            return self.earlier.image(image_id)
        shard, offset, size = (self[n].item(image_id) for n in ("shard", "offset", "size"))
        path = resolve_shard(self.run_folder, shard, self.folders)
        try:
            data = self._reader.read(path, offset, size)
            return decode(data, self.policy) if data else None
        except (OSError, Undecodable):
            return None

    def evidence(self, a: int, b: int) -> Thumbnail | None:
        """Draw how two images fit together; None if one cannot be read, or without OpenCV."""
        pictures = [image for image in map(self.image, (a, b)) if image is not None]
        if len(pictures) == 2:
            with contextlib.suppress(UsageError):
                drawn, _ = draw_evidence(*pictures)
                return thumbnail(drawn, side=drawn.shape[1], quality=90)
        return None

    def picture(self, image_id: int, *, side: int = 96) -> Thumbnail | None:
        """Thumbnail of an image, made once."""
        if (image_id, side) not in self._pictures:
            image = self.image(image_id)
            self._pictures[image_id, side] = None if image is None else thumbnail(image, side=side)
        return self._pictures[image_id, side]

    def own(self) -> "Ledger":
        """Return the rows of the run itself."""
        columns = {name: column[self.first :] for name, column in self.columns.items()}
        return replace(self, columns=columns)


def read_ledger(run_folder: Path) -> Ledger | None:
    """Read the ledger of a run; None if the run has none (yet).

    Raises
    ------
    UsageError
        If the table is damaged.
    """
    ledger: Ledger | None = None
    for folder in generation_folders(run_folder):
        if not ledger_path(folder).is_file():
            return None
        ledger = _read_own(folder, ledger)
    return ledger


def _read_own(run_folder: Path, earlier: Ledger | None) -> Ledger:
    path = ledger_path(run_folder)
    table = read_table(path, _COLUMNS)
    for name in {"places", "cluster", "rule"} - set(table.column_names):  # a run from before them
        kind = pa.string() if name == "rule" else pa.int32()
        table = table.append_column(name, pa.nulls(len(table), kind))
    columns = {name: _values(table.column(name)) for name in _COLUMNS}
    first = 0
    if earlier is not None:
        first = len(earlier)
        columns = {name: np.concatenate([earlier[name], columns[name]]) for name in _COLUMNS}
    policy = config_of(DecodePolicy, read_recipe(run_folder).get("decode", {}))
    return Ledger(columns, run_folder, working_folders(run_folder), first, earlier, policy)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Values of a column; "", -1 or NaN for null."""
    if pa.types.is_string(column.type):
        return column.fill_null("").to_numpy()
    if pa.types.is_floating(column.type):
        return column.cast("float64").fill_null(np.nan).to_numpy()
    return column.cast("int64").fill_null(-1).to_numpy()


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """Images dropped (or kept) for one reason; ``left`` remain after it."""

    reason: str
    label: str
    images: int
    left: int
    parts: list[tuple[str, int]]  # by cause; sums to ``images`` when not empty


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """From all input images to the kept ones: ``images`` minus every drop is ``kept``."""

    images: int
    drops: list[FunnelStep]
    kept: int
    kept_as: list[FunnelStep]
    roles: dict[str, int]  # role -> images in
    planted: int  # input images that are copies planted by the run


def make_funnel(ledger: Ledger) -> Funnel:
    """Count the decisions of the run itself."""
    ledger = ledger.own()
    is_kept = ledger["decision"] == "kept"
    left = len(ledger)
    drops = []
    for reason in _in_order(set(ledger["reason"][~is_kept])):
        is_dropped = ~is_kept & (ledger["reason"] == reason)
        left -= int(is_dropped.sum())
        drops.append(_step(ledger, reason, is_dropped, left))
    kept = int(is_kept.sum())
    kept_as = [
        _step(ledger, reason, is_kept & (ledger["reason"] == reason), kept)
        for reason in _in_order(set(ledger["reason"][is_kept]))
    ]
    assert left == kept, "every image is kept or dropped for one reason"
    return Funnel(
        images=len(ledger),
        drops=drops,
        kept=kept,
        kept_as=kept_as,
        roles=dict(sorted(Counter(ledger["role"].tolist()).items())),
        planted=int((ledger["planted_from"] >= 0).sum()),
    )


def _in_order(reasons: set[str]) -> list[str]:
    known = [reason for reason in REASONS if reason in reasons]
    return known + sorted(reasons - set(REASONS))


def _step(ledger: Ledger, reason: str, rows: NDArray[np.bool_], left: int) -> FunnelStep:
    causes: Counter[str] = Counter()
    if reason in _SPLIT:
        details = ledger["detail"][rows].tolist()
        causes.update(detail.split(":")[0].replace("_", " ") or "other" for detail in details)
    # The largest cause first; a single unnamed cause is no information.
    parts = sorted(causes.items(), key=lambda part: (-part[1], part[0]))
    label = _LABELS.get(reason, reason.replace("_", " "))
    # A dropped seed only retrieved images: the label of kept seeds would mislead.
    if reason == "seed" and (ledger["decision"][rows] == "dropped").all():
        label = "seeds (used for retrieval only)"
    return FunnelStep(
        reason=reason,
        label=label,
        images=int(rows.sum()),
        left=left,
        parts=[] if [name for name, _ in parts] == ["other"] else parts,
    )
