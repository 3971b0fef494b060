"""Self-check of the deduplication on the user's own data: how many planted copies it finds.

A pair that touches a planted copy is right when it leads to the original or to another copy of
it. Natural duplicates of the original count as wrong here, so precision is a lower bound.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.policies.intervals import share
from dinoforge.curation.policies.pairs import Pairs
from dinoforge.curation.stored.links import LINK_KEYS, LINK_STAGES, read_strengths, weakest
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["CheckStage"]


class CheckStage(CurationStage):
    """Precision and recall on planted copies: at the threshold, by kind of edit, as a curve."""

    name = "check"
    number = 55
    version = "1.2.0"
    keys = ("plant.count", "duplicates.threshold", "duplicates.floor", *LINK_KEYS)
    execution_keys = ("base",)
    needs = ("ingest", "plant", "filter", *LINK_STAGES)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none when nothing was planted."""
        return [{}] if inputs.config.plant.count else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Look up the pair of every planted copy with its original."""
        policy = inputs.config.duplicates
        content = tables.read_content(inputs)
        pairs, is_link = read_strengths(inputs, policy.threshold)
        limit = weakest(policy.verify, policy.threshold)
        # Without those that are strong but no links: too few places, a cosine below its threshold.
        pairs = pairs.where(is_link | ~pairs.is_above(limit))
        floor = policy.floor
        if policy.verify.mode == "pixels":
            floor = 0.0  # of a correlation
        planted = _planted(inputs)
        copy, original = (planted.column(n).to_numpy() for n in ("image_id", "planted_from"))
        same = content[copy] == content[original]
        similarity = np.where(same, 1.0, _similarity(pairs, content[copy], content[original]))
        is_found = same | (similarity > limit)
        edit = planted.column("edit")
        columns = [copy, original, edit, similarity.astype(np.float32), is_found]
        out.write_table("planted", columns, tables.CHECK_SCHEMA)
        kinds = np.array(edit.to_pylist())
        touching, right = _touching(pairs, content, copy, original)
        grid = np.unique(np.r_[np.linspace(floor, 0.995, 30), limit])
        return {
            "planted": len(copy),
            "recall": share(int(is_found.sum()), len(is_found)),
            "recall_by_edit": {
                kind: share(int(is_found[kinds == kind].sum()), int((kinds == kind).sum()))
                for kind in sorted(set(kinds.tolist()))
            },
            "precision": _precision(touching, right, limit),
            "curve": [
                {
                    "threshold": round(float(t), 6),
                    "recall": share(int((same | (similarity > t)).sum()), len(copy))["value"],
                    "precision": _precision(touching, right, float(t))["value"],
                }
                for t in grid
            ],
        }


def _planted(inputs: CurationInputs) -> pa.Table:
    """Return the copies planted by this run that were admitted together with their originals."""
    index = tables.read_index(inputs, ["image_id", "planted_from", "edit"])
    planted = index.filter(index.column("planted_from").is_valid())
    admitted = tables.read_all_screened(inputs).reason < 0
    copy, original = (planted.column(n).to_numpy() for n in ("image_id", "planted_from"))
    return planted.filter(pa.array(admitted[copy] & admitted[original]))


def _similarity(pairs: Pairs, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the similarity of the stored pair of each (a, b); NaN where there is none."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    some = pairs.where(np.isin(pairs.i, low))  # a small part of all
    columns = (column.tolist() for column in some)
    stored = {(i, j): similarity for i, j, similarity in zip(*columns, strict=True)}
    ends = zip(low.tolist(), high.tolist(), strict=True)
    return np.array([stored.get(pair, np.nan) for pair in ends], np.float64)


def _touching(
    pairs: Pairs, content: NDArray[np.int64], copy: NDArray[np.int64], original: NDArray[np.int64]
) -> tuple[Pairs, NDArray[np.bool_]]:
    """Return the pairs with a planted copy at an end, and which of them join one family."""
    family = np.full(len(content), -1, np.int64)
    is_copy = np.zeros(len(content), np.bool_)
    family[content[original]] = content[original]
    changed = content[copy] != content[original]
    family[content[copy[changed]]] = content[original[changed]]
    is_copy[content[copy[changed]]] = True
    touching = pairs.where(is_copy[pairs.i] | is_copy[pairs.j])
    right = (family[touching.i] == family[touching.j]) & (family[touching.i] >= 0)
    return touching, right


def _precision(touching: Pairs, right: NDArray[np.bool_], threshold: float) -> Json:
    above = touching.similarity.astype(np.float64) > threshold
    return share(int((above & right).sum()), int(above.sum()))
