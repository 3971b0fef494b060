"""One decision per image, and the shard of every exported image; reads tables only."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import REASONS
from dinoforge.curation import tables
from dinoforge.curation.config import ExportConfig
from dinoforge.curation.policies.decisions import (
    Decisions,
    apply_balance,
    apply_exclusion,
    apply_retrieval,
    decide_rest,
)
from dinoforge.curation.stored.balance import read_balanced
from dinoforge.curation.stored.decisions import decide_before_retrieval, read_excluded, read_slots
from dinoforge.curation.stored.seed_sets import every_rule
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.randomness import KeyedPermutation
from dinoforge.stages import Json, Output

__all__ = ["SelectStage", "cut_shards"]

# Bytes of a sample in a tar beyond the image: two headers, the JSON, padding.
_OVERHEAD_BYTES = 3 * 1024


class SelectStage(CurationStage):
    """Decide about every image and assign the kept ones to shards."""

    name = "select"
    number = 75
    version = "1.2.0"
    keys = ("retrieve", "balance.target", "export", "seed")
    execution_keys = ("base",)
    needs = (
        *("ingest", "plant", "inspect", "filter", "components", "decontaminate", "retrieve"),
        "balance",
    )

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Combine the results of all stages."""
        config = inputs.config
        decisions = _decide(inputs)
        decided = [getattr(decisions, name) for name in tables.DECISIONS_SCHEMA.names]
        out.write_table("decisions", decided, tables.DECISIONS_SCHEMA)
        image_id, copy = _order(decisions, config.export, config.seed)
        parts = [config.export.name]
        part = np.zeros(len(image_id), np.int64)
        if config.export.parts:
            parts, part = _parts(inputs, decisions, image_id)
            order = np.argsort(part, kind="stable")
            image_id, copy, part = image_id[order], copy[order], part[order]
        at = image_id - decisions.first
        rows = pa.array(at)
        names = [name for name in tables.INDEX_SCHEMA.names if name in tables.EXPORTS_SCHEMA.names]
        index = tables.read_index(inputs, names).take(rows)
        facts = tables.read_facts(inputs, ["format", "sha256"]).take(rows)
        sizes = index.column("size").to_numpy()
        bounds = np.searchsorted(part, np.arange(len(parts) + 1))
        starts = np.concatenate(
            [a + cut_shards(sizes[a:b], config.export) for a, b in itertools.pairwise(bounds)]
        )
        shard = np.searchsorted(starts, np.arange(len(image_id)), side="right") - 1
        columns = {
            **dict(zip(index.column_names, index.columns, strict=True)),
            **dict(zip(facts.column_names, facts.columns, strict=True)),
            "copy": copy.astype(np.int32),
            "out_shard": shard.astype(np.int32),
            "reason": pa.array(REASONS).take(pa.array(decisions.reason[at])),
            **{n: getattr(decisions, n)[at] for n in ("seed_id", "rank", "score")},
        }
        exports = [columns[name] for name in tables.EXPORTS_SCHEMA.names]
        out.write_table("places", exports, tables.EXPORTS_SCHEMA)
        facts = {
            "kept": int(np.count_nonzero(decisions.kept)),
            "exported": len(image_id),
            "shard_starts": starts.tolist(),
        }
        if config.export.parts:
            facts["shard_parts"] = [parts[number] for number in part[starts]]
        return facts


def cut_shards(sizes: NDArray[np.int64], policy: ExportConfig) -> NDArray[np.int64]:
    """Return the first position of every shard.

    A shard holds at most ``shard_images`` images, and at most ``shard_mib`` unless one image is
    larger.
    """
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
    screened = tables.read_screened(inputs)
    decisions = decide_before_retrieval(inputs, screened)
    if policy.mode == "seeds":
        apply_exclusion(decisions, **read_excluded(inputs))
        slots, seeds = read_slots(inputs)
        multiset = [rule.policy == "multiset" for rule in every_rule(policy)]
        apply_retrieval(decisions, slots, seeds, multiset=multiset)
    if balanced := read_balanced(inputs):
        apply_balance(decisions, balanced.image_id[~balanced.chosen])
    everything = policy.mode == "none" or policy.keep == "all"
    decide_rest(decisions, screened, keep_survivors=everything)
    assert (decisions.reason >= 0).all(), "an image was left without a decision"
    return decisions


def _parts(
    inputs: CurationInputs, decisions: Decisions, image_id: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the parts and the part of every image.

    It is that of the rule that retrieved it; else of its source, for seeds that of their first
    rule.
    """
    at = image_id - decisions.first
    rules = inputs.config.retrieve.rules
    number = np.where(len(rules) > 0, decisions.rule[at], -1)
    source = tables.read_index(inputs, ["source"]).column("source").take(pa.array(at))
    labels = pa.array([rule.label for rule in rules], pa.string())
    by_rule = labels.take(pa.array(number, mask=number < 0))
    of_seeds = {rule.seeds: rule.label for rule in reversed(rules) if "seed" in rule.roles}
    encoded = source.combine_chunks().dictionary_encode()
    own = [of_seeds.get(name, name) for name in encoded.dictionary.to_pylist()]
    names = pc.coalesce(by_rule, pa.array(own, pa.string()).take(encoded.indices))
    parts = sorted(pc.unique(names).to_pylist()) or [inputs.config.export.name]
    return parts, pc.index_in(names, pa.array(parts)).to_numpy().astype(np.int64)


def _order(
    decisions: Decisions, policy: ExportConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return image id and copy number in the order of the shards."""
    kept = np.flatnonzero(decisions.kept)
    times = decisions.copies[kept].astype(np.int64)
    image_id = np.repeat(decisions.first + kept, times)
    copy = np.arange(len(image_id)) - np.repeat(np.cumsum(times) - times, times)
    if policy.order == "random" and len(image_id):
        order = KeyedPermutation(len(image_id), seed, "export")[np.arange(len(image_id))]
        image_id, copy = image_id[order], copy[order]
    return image_id, copy
