"""What balancing stores: the cluster of every image, the levels of clusters, their counts."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.decisions import read_excluded, read_slots
from dinoforge.curation.tables import CurationInputs
from dinoforge.tables import read_table

__all__ = [
    "BALANCED_SCHEMA",
    "CLUSTERS_SCHEMA",
    "Balanced",
    "meaning_stage",
    "read_balanced",
    "read_open_pool",
]

# balance: one row per clustered image, ascending, and its cluster of the first level; distance to
# the centroid; chosen: kept as one of the target
BALANCED_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("chosen", pa.bool_()),
    ]
)

# balance: one row per cluster of each level, the first level first; parent: its cluster of the next
# level, -1 at the highest; images that could be chosen, and those that were
CLUSTERS_SCHEMA = pa.schema(
    [
        ("level", pa.int32()),
        ("cluster", pa.int32()),
        ("parent", pa.int32()),
        ("images", pa.int64()),
        ("kept", pa.int64()),
    ]
)


class Balanced(NamedTuple):
    """Columns of `BALANCED_SCHEMA`."""

    image_id: NDArray[np.int64]
    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]
    chosen: NDArray[np.bool_]


def read_balanced(inputs: CurationInputs) -> Balanced | None:
    """Read which images were chosen; None without a balance, or without images."""
    if not inputs.config.balance.target:
        return None
    paths = inputs.files("balance", "balanced.parquet")
    if not paths:
        return None
    table = read_table(paths[0])
    columns: list[Any] = [table.column(name).to_numpy() for name in BALANCED_SCHEMA.names]
    return Balanced(*columns)


def read_open_pool(inputs: CurationInputs, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the surviving pool images no rule retrieved or excluded."""
    if inputs.config.retrieve.mode == "none":
        return np.ones(len(ids), np.bool_)
    slots, _ = read_slots(inputs)
    return ~np.isin(ids, np.r_[slots.image_id, read_excluded(inputs)["image_id"]])


def meaning_stage(config: CurationConfig) -> str:
    """Name the stage whose embeddings measure similar content."""
    has_own = config.retrieve.encoder not in {"", config.duplicates.encoder}
    return "embed-meaning" if has_own else "embed"
