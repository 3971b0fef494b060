"""One decision per image, and the place of every image that is exported; reads tables only."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import REASONS
from dinoforge.curation.config import ExportConfig
from dinoforge.curation.facts import read_facts
from dinoforge.curation.index import read_index
from dinoforge.curation.policies.decisions import Decisions, apply_retrieval, decide_rest
from dinoforge.curation.stages.filter import read_screened
from dinoforge.curation.stages.retrieve import read_slots
from dinoforge.curation.survivors import decide_before_retrieval
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.randomness import KeyedPermutation
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["PLACES_SCHEMA", "SelectStage", "cut_shards", "out_key", "read_decisions"]

_DECISIONS_SCHEMA = pa.schema(
    [
        ("kept", pa.bool_()),
        ("reason", pa.int8()),
        ("copies", pa.int32()),
        ("component", pa.int64()),
        ("duplicate_of", pa.int64()),
        ("edge_i", pa.int64()),
        ("edge_j", pa.int64()),
        ("similarity", pa.float32()),
        ("seed_id", pa.int64()),
        ("rank", pa.int64()),
        ("score", pa.float32()),
    ]
)

# One row a file of an exported image, in the order of the shards.
PLACES_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("copy", pa.int32()),  # 0, and more under the policy multiset
        ("out_shard", pa.int32()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("member", pa.string()),
        ("format", pa.string()),
        ("sha256", pa.binary(32)),
        ("reason", pa.string()),
        ("seed_id", pa.int64()),
        ("rank", pa.int64()),
        ("score", pa.float32()),
    ]
)

# Bytes of a sample in a tar beyond the image: two headers, the JSON, padding.
_OVERHEAD_BYTES = 3 * 1024


class SelectStage(CurationStage):
    """Decide about every image and deal the kept ones to shards."""

    name = "select"
    number = 75
    keys = ("retrieve", "export", "seed")
    needs = (
        "ingest",
        "plant",
        "filter",
        "screen",
        "components",
        "decontaminate",
        "retrieve",
    )

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Put the findings of all stages together."""
        config = inputs.config
        decisions = _decide(inputs)
        columns = [getattr(decisions, name) for name in _DECISIONS_SCHEMA.names]
        out.write_table("decisions", pa.table(columns, schema=_DECISIONS_SCHEMA), _DECISIONS_SCHEMA)
        image_id, copy = _order(decisions, config.export, config.seed)
        places = _places(inputs, decisions, image_id, copy)
        starts = cut_shards(places.column("size").to_numpy(), config.export)
        shard = np.searchsorted(starts, np.arange(len(image_id)), side="right") - 1
        places = places.append_column("out_shard", pa.array(shard.astype(np.int32)))
        out.write_table("places", places, PLACES_SCHEMA)
        return {
            "kept": int(np.count_nonzero(decisions.kept)),
            "exported": len(image_id),
            "shard_starts": starts.tolist(),
        }


def read_decisions(inputs: CurationInputs) -> Decisions:
    """Read the decision about every image."""
    table = read_table(inputs.file("select", "decisions.parquet"))
    return Decisions(**{name: table.column(name).to_numpy() for name in _DECISIONS_SCHEMA.names})


def out_key(image_id: int, copy: int = 0) -> str:
    """Key of an image in the exported shards: its id, so that it can be traced back."""
    return f"{image_id:09d}-{copy}" if copy else f"{image_id:09d}"


def cut_shards(sizes: NDArray[np.int64], policy: ExportConfig) -> NDArray[np.int64]:
    """First position of every shard: at most so many images, and bytes unless one is larger."""
    ends = np.cumsum(-(-sizes // 512) * 512 + _OVERHEAD_BYTES)
    starts: list[int] = []
    start = 0
    while start < len(sizes):
        starts.append(start)
        before = int(ends[start - 1]) if start else 0
        fits = int(np.searchsorted(ends, before + (policy.shard_mib << 20), side="right"))
        start = min(max(fits, start + 1), start + policy.shard_images)
    return np.array(starts, np.int64)


def _decide(inputs: CurationInputs) -> Decisions:
    policy = inputs.config.retrieve
    screened = read_screened(inputs)
    decisions = decide_before_retrieval(inputs, screened)
    if policy.mode == "seeds":
        slots, seeds = read_slots(inputs)
        apply_retrieval(decisions, slots, seeds, multiset=policy.policy == "multiset")
    everything = policy.mode == "none" or policy.keep == "all"
    decide_rest(decisions, screened, keep_survivors=everything)
    assert (decisions.reason >= 0).all(), "an image was left without a decision"
    return decisions


def _order(
    decisions: Decisions, policy: ExportConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image id and copy number in the order of the shards."""
    kept = np.flatnonzero(decisions.kept)
    times = decisions.copies[kept].astype(np.int64)
    image_id = np.repeat(kept, times)
    copy = np.arange(len(image_id)) - np.repeat(np.cumsum(times) - times, times)
    if policy.order == "random" and len(image_id):
        order = KeyedPermutation(len(image_id), seed, "export")[np.arange(len(image_id))]
        image_id, copy = image_id[order], copy[order]
    return image_id, copy


def _places(
    inputs: CurationInputs,
    decisions: Decisions,
    image_id: NDArray[np.int64],
    copy: NDArray[np.int64],
) -> pa.Table:
    rows = pa.array(image_id)
    names = ["image_id", "key", "source", "shard", "offset", "size", "label", "class_name"]
    table = read_index(inputs, [*names, "member"]).take(rows)
    facts = read_facts(inputs, ["format", "sha256"]).take(rows)
    reasons = pa.array(REASONS).take(pa.array(decisions.reason[image_id]))
    more: dict[str, Any] = {
        "copy": pa.array(copy.astype(np.int32)),
        "format": facts.column("format"),
        "sha256": facts.column("sha256"),
        "reason": reasons,
        "seed_id": pa.array(decisions.seed_id[image_id]),
        "rank": pa.array(decisions.rank[image_id]),
        "score": pa.array(decisions.score[image_id]),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table
