"""Self-check of the deduplication on the user's own data: the planted copies that were found.

A pair that touches a planted copy is right when it leads to the original or to another copy of
it. Natural duplicates of the original count as wrong here, so precision is a lower bound.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.index import read_index
from dinoforge.curation.policies.intervals import share
from dinoforge.curation.policies.pairs import Pairs
from dinoforge.curation.stages.exact import read_content
from dinoforge.curation.stages.filter import read_screened
from dinoforge.curation.stages.graph import read_pairs
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["CHECK_SCHEMA", "CheckStage"]

CHECK_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("planted_from", pa.int64()),
        ("edit", pa.string()),
        ("similarity", pa.float32()),  # to the original; NaN: no pair above the floor
        ("found", pa.bool_()),
    ]
)


class CheckStage(CurationStage):
    """Precision and recall on planted copies: at the threshold, by kind of edit, as a curve."""

    name = "check"
    number = 55
    keys = ("plant.count", "duplicates.threshold", "duplicates.floor")
    needs = ("ingest", "plant", "screen", "exact", "graph")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none when nothing was planted."""
        return [{}] if inputs.config.plant.count else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Look up the pair of every planted copy with its original."""
        policy = inputs.config.duplicates
        content, pairs = read_content(inputs), read_pairs(inputs)
        planted = _planted(inputs)
        copy, original = (planted.column(n).to_numpy() for n in ("image_id", "planted_from"))
        same = content[copy] == content[original]
        similarity = np.where(same, 1.0, _similarity(pairs, content[copy], content[original]))
        found = same | (similarity > policy.threshold)
        columns = [copy, original, planted.column("edit"), similarity.astype(np.float32), found]
        table = pa.table(
            [pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=CHECK_SCHEMA
        )
        out.write_table("planted", table, CHECK_SCHEMA)
        kinds = np.array(planted.column("edit").to_pylist())
        touching, right = _touching(pairs, content, copy, original)
        grid = np.unique(np.r_[np.linspace(policy.floor, 0.995, 30), policy.threshold])
        return {
            "planted": len(copy),
            "recall": share(int(found.sum()), len(found)),
            "recall_by_edit": {
                kind: share(int(found[kinds == kind].sum()), int((kinds == kind).sum()))
                for kind in sorted(set(kinds.tolist()))
            },
            "precision": _precision(touching, right, policy.threshold),
            "curve": [
                {
                    "threshold": round(float(t), 6),
                    "recall": round(float((same | (similarity > t)).mean()), 6),
                    "precision": _precision(touching, right, float(t))["value"],
                }
                for t in grid
            ],
        }


def _planted(inputs: CurationInputs) -> pa.Table:
    """Planted copies that were admitted and whose originals were."""
    index = read_index(inputs, ["image_id", "planted_from", "edit"])
    planted = index.filter(index.column("planted_from").is_valid())
    reason = read_screened(inputs).reason
    both = (reason[planted.column("image_id").to_numpy()] < 0) & (
        reason[planted.column("planted_from").to_numpy()] < 0
    )
    return planted.filter(pa.array(both))


def _similarity(pairs: Pairs, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Similarity of the stored pair of each (a, b); NaN where there is none."""
    wanted = np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)
    table = {
        (i, j): s
        for i, j, s in zip(*(column.tolist() for column in _of(pairs, wanted)), strict=True)
    }
    return np.array([table.get((i, j), np.nan) for i, j in wanted.tolist()], np.float64)


def _of(pairs: Pairs, wanted: NDArray[np.int64]) -> Pairs:
    """Pairs whose first end is asked for: a small part of all."""
    return pairs.where(np.isin(pairs.i, wanted[:, 0]))


def _touching(
    pairs: Pairs,
    content: NDArray[np.int64],
    copy: NDArray[np.int64],
    original: NDArray[np.int64],
) -> tuple[Pairs, NDArray[np.bool_]]:
    """Pairs with a planted copy at an end, and which of them join one family."""
    family = np.full(len(content), -1, np.int64)
    is_copy = np.zeros(len(content), np.bool_)
    family[content[original]] = content[original]
    changed = content[copy] != content[original]
    family[content[copy[changed]]] = content[original[changed]]
    is_copy[content[copy[changed]]] = True
    touching = pairs.where(is_copy[pairs.i] | is_copy[pairs.j])
    right = (family[touching.i] == family[touching.j]) & (family[touching.i] >= 0)
    return touching, right


def _precision(touching: Pairs, right: NDArray[np.bool_], threshold: float) -> dict[str, Any]:
    above = touching.similarity.astype(np.float64) > threshold
    return share(int((above & right).sum()), int(above.sum()))
