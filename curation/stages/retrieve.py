"""Which seed gets which neighbor: the candidates of all partitions merged, the policy applied."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.clusters.sampling import choose_rows
from dinoforge.curation import tables
from dinoforge.curation.policies.slots import (
    Slots,
    cap_slots,
    collisions,
    concat_slots,
    draw_again,
    share_clusters,
    take_slots,
)
from dinoforge.curation.retrieve_config import RuleConfig
from dinoforge.curation.stored.decisions import read_retrievable
from dinoforge.curation.stored.generations import earlier_generations, first_id
from dinoforge.curation.stored.seed_sets import every_rule, read_examples, read_seed_set
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.search import Neighbors, merge_top_k
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["RetrieveStage"]


class RetrieveStage(CurationStage):
    """Grant slots to seeds, rule by rule; count how often they retrieve the same image."""

    name = "retrieve"
    number = 70
    version = "1.1.0"
    keys = ("retrieve", "seed")
    execution_keys = ("base",)
    needs = (
        *("ingest", "plant", "survivors", "search"),
        *("pool-clusters", "seed-clusters", "exclude"),
    )

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none without retrieval."""
        return [] if inputs.config.retrieve.mode == "none" else [{}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Merge the lists and apply the policy of every rule."""
        policy = inputs.config.retrieve
        every_seed, pools = read_retrievable(inputs)
        seeds, num_pool = np.concatenate(every_seed), len(pools[-1])
        numbers = range(len(every_rule(policy)))
        excluded = [_exclude(inputs, n) for n in numbers if every_rule(policy)[n].mode == "exclude"]
        without = np.empty(0, np.int64)
        if excluded:
            every = pa.concat_tables(excluded)
            without, first = np.unique(every.column("image_id").to_numpy(), return_index=True)
            out.write_table("excluded", every.take(pa.array(first)), tables.EXCLUDED_SCHEMA)
        retrieved = [_retrieve(inputs, number, seeds, without) for number in numbers]
        stored = pa.concat_tables([one.table(seeds) for one in retrieved])
        out.write_table("slots", stored, tables.SLOTS_SCHEMA)
        granted = concat_slots([one.granted for one in retrieved])
        granted = granted.take(np.flatnonzero(granted.image_id >= first_id(inputs)))
        asked = sum(one.asked for one in retrieved)
        counts = collisions(granted, asked=asked, pool_size=num_pool)
        facts = {"seeds": len(seeds), "pool": num_pool} | counts
        if policy.rules:
            facts["rules"] = [one.count(num_pool) for one in retrieved]
        return facts


@dataclass(frozen=True)
class _Retrieved:
    """What one rule retrieved; seeds by number among all seeds, -1: none."""

    rule: RuleConfig
    num_seeds: int
    asked: int  # slots requested
    before_cap: int  # slots granted if there were no cap
    granted: Slots
    stored: Slots  # all candidates, and which of them are granted
    is_granted: NDArray[np.bool_]
    cluster: NDArray[np.int32]  # of the candidates, -1 if the rule has none
    facts: Json = field(default_factory=dict)

    def table(self, seeds: NDArray[np.int64]) -> pa.Table:
        """Return the candidates as they are stored; ``seeds`` are the ids of all seeds."""
        slots = self.stored
        seed_id = np.full(len(slots.seed), -1, np.int64)
        has_seed = slots.seed >= 0
        seed_id[has_seed] = seeds[slots.seed[has_seed]]
        columns = [seed_id, slots.rank, slots.image_id, slots.score, self.is_granted, slots.rule]
        return pa.table([*columns, self.cluster], schema=tables.SLOTS_SCHEMA)

    def count(self, pool_size: int) -> Json:
        """Count slots and collisions; multiplicities and the Gini coefficient are of this rule."""
        rule = self.rule
        return {
            "name": rule.label,
            "seed_set": rule.seeds,
            "mode": rule.mode,
            **({} if rule.mode == "exclude" else {"policy": rule.policy}),
            "weight": rule.weight,
            "seeds": self.num_seeds,
            **self.facts,
            "before_cap": self.before_cap,
            **collisions(self.granted, asked=self.asked, pool_size=pool_size),
        }


def _exclude(inputs: CurationInputs, number: int) -> pa.Table:
    """Return the images above the threshold of a rule, with their nearest examples."""
    rule = inputs.config.retrieve.rules[number]
    names = ("ids", "examples", "scores")
    parts = [tables.EXCLUDED_SCHEMA.empty_table()]
    files = [inputs.files("exclude", f"{name}.npy") for name in names]
    for facts, *paths in zip(inputs.facts("exclude"), *files, strict=True):
        if facts["set"] == rule.seeds:
            ids, examples, scores = (np.load(path) for path in paths)
            is_near = scores > rule.threshold
            columns = [part[is_near] for part in (ids, examples, scores)]
            columns.append(np.full(len(columns[0]), number, np.int32))
            parts.append(pa.table(columns, schema=tables.EXCLUDED_SCHEMA))
    return pa.concat_tables(parts)


def _retrieve(
    inputs: CurationInputs, number: int, seeds: NDArray[np.int64], without: NDArray[np.int64]
) -> _Retrieved:
    """Apply one rule to its seeds, and to the pool without some images."""
    rule = every_rule(inputs.config.retrieve)[number]
    at = read_seed_set(inputs, rule.seeds, seeds)
    if rule.mode == "cluster":
        return _draw(inputs, number, len(at), without)
    if rule.mode == "exclude":
        return _leave_out(inputs, number)
    return _sample(inputs, number, seeds, at, without)


def _leave_out(inputs: CurationInputs, number: int) -> _Retrieved:
    """Count what a rule excludes; it retrieves nothing."""
    rule = inputs.config.retrieve.rules[number]
    none = np.empty(0, np.int64)
    slots = Slots(none, none, none, none.astype(np.float32), none.astype(np.int32))
    return _Retrieved(
        rule=rule,
        num_seeds=len(read_examples(inputs, rule.seeds)),
        asked=0,
        before_cap=0,
        granted=slots,
        stored=slots,
        is_granted=np.empty(0, np.bool_),
        cluster=slots.rule,
        facts={"excluded": _exclude(inputs, number).num_rows},
    )


def _cap(slots: Slots, rule: RuleConfig, seed: int) -> Slots:
    multiset, purpose = rule.policy == "multiset", f"retrieve/{rule.label}/cap"
    return cap_slots(slots, rule.cap, multiset=multiset, seed=seed, purpose=purpose)


def _sample(
    inputs: CurationInputs,
    number: int,
    seeds: NDArray[np.int64],
    at: NDArray[np.int64],
    without: NDArray[np.int64],
) -> _Retrieved:
    """Grant the nearest candidates of the seeds ``at`` these numbers."""
    policy = inputs.config.retrieve
    rule = every_rule(policy)[number]
    width = rule.num_candidates(policy.candidates)
    merged = _merged(inputs, seeds[at], rule.seeds, width)
    if len(without):
        is_out = np.isin(merged.ids, without)
        rest = Neighbors(np.where(is_out, -1, merged.ids), np.where(is_out, -np.inf, merged.scores))
        merged = merge_top_k([rest])
    chosen = take_slots(merged.ids, merged.scores, k=rule.k, policy=rule.policy, rule=number)
    granted = _cap(chosen, rule, inputs.config.seed)
    every = take_slots(merged.ids, merged.scores, k=width, policy="multiset", rule=number)
    return _Retrieved(
        rule=rule,
        num_seeds=len(at),
        asked=rule.k * len(at),
        before_cap=len(chosen.image_id),
        granted=replace(granted, seed=at[granted.seed]),
        stored=replace(every, seed=at[every.seed]),
        is_granted=np.isin(every.seed * width + every.rank, granted.seed * width + granted.rank),
        cluster=np.full(len(every.seed), -1, np.int32),
    )


def _draw(
    inputs: CurationInputs, number: int, num_seeds: int, without: NDArray[np.int64]
) -> _Retrieved:
    """Draw images from the clusters that the seeds are in: of a cluster the same for every rule."""
    rule, seed = inputs.config.retrieve.rules[number], inputs.config.seed
    ids, labels, distances, of_seeds = _read_clusters(inputs, rule.seeds)
    num_clusters, is_in = int(labels.max(initial=-1)) + 1, ~np.isin(ids, without)
    ids, labels, distances = ids[is_in], labels[is_in], distances[is_in]
    sizes = np.bincount(labels, minlength=num_clusters)
    in_cluster = np.bincount(of_seeds, minlength=len(sizes))
    shares = share_clusters(
        sizes,
        in_cluster,
        per_cluster=rule.per_cluster,
        min_seeds=rule.min_seeds,
        skip_small=rule.on_small_cluster == "skip",
    )
    chosen = np.flatnonzero(
        choose_rows(labels, shares, ids, distances=distances, rule="random", seed=seed)
    )
    if rule.on_small_cluster == "replace":
        missing = np.where(shares > 0, rule.per_cluster - shares, 0)
        chosen = np.r_[chosen, chosen[draw_again(labels[chosen], missing, seed=seed)]]
    image_id = ids[chosen]
    none, score = np.full(len(image_id), -1), np.full(len(image_id), np.nan, np.float32)
    drawn = Slots(none, none, image_id, score, np.full(len(image_id), number, np.int32))
    # Slots of one image differ by their rank as long as the cap is drawn.
    capped = _cap(replace(drawn, rank=np.arange(len(image_id))), rule, seed)
    has_seeds = in_cluster >= rule.min_seeds
    num_clusters = int(np.count_nonzero(has_seeds))
    num_small = int(np.count_nonzero(has_seeds & (sizes < rule.per_cluster)))
    return _Retrieved(
        rule=rule,
        num_seeds=num_seeds,
        asked=rule.per_cluster * num_clusters,
        before_cap=len(image_id),
        granted=replace(capped, rank=none[: len(capped.rank)]),
        stored=drawn,
        is_granted=np.isin(np.arange(len(image_id)), capped.rank),
        cluster=labels[chosen],
        facts={"clusters": num_clusters, "small_clusters": num_small},
    )


def _read_clusters(inputs: CurationInputs, seed_set: str) -> tuple[NDArray[Any], ...]:
    """Read ids, clusters and distances of the pool, and the clusters of a seed set."""
    if not inputs.facts("pool-clusters"):  # no image is left
        none = np.empty(0, np.int64)
        return none, none.astype(np.int32), none.astype(np.float32), none
    names = ("ids", "labels-1", "distances")
    pool = [np.load(inputs.file("pool-clusters", f"{name}.npy")) for name in names]
    sets = [facts["set"] for facts in inputs.facts("seed-clusters")]
    path = inputs.file("seed-clusters", "clusters.npy", sets.index(seed_set))
    return *pool, np.load(path)


def _merged(
    inputs: CurationInputs, seeds: NDArray[np.int64], seed_set: str, width: int
) -> Neighbors:
    """Merge the lists of all partitions, and those that the base has stored of its seeds."""
    num = len(seeds)
    merged = merge_top_k([_no_neighbors(num, width), *_read_base(inputs, seeds)])
    files = [inputs.files("search", f"{name}.npy") for name in ("ids", "scores")]
    for facts, *paths in zip(inputs.facts("search"), *files, strict=True):
        if facts["set"] != seed_set:
            continue
        ids, scores = (np.load(path) for path in paths)
        part = _no_neighbors(num, ids.shape[1])
        # Only the seeds of this run, which are the last, are compared with earlier pools.
        part.ids[num - len(ids) :], part.scores[num - len(ids) :] = ids, scores
        merged = merge_top_k([merged, part])
    return merged


def _read_base(inputs: CurationInputs, seeds: NDArray[np.int64]) -> list[Neighbors]:
    """Read the candidates of the seeds of earlier generations, if any: the base has them all."""
    earlier = earlier_generations(inputs)
    lists = []
    for path in earlier[-1][1].files("retrieve", "slots.parquet") if earlier else []:
        columns = ("seed_id", "rank", "image_id", "score")
        seed, rank, image, score = (c.to_numpy() for c in read_table(path, columns).columns)
        part = _no_neighbors(len(seeds), int(rank.max(initial=-1)) + 1)
        row = np.searchsorted(seeds, seed)
        part.ids[row, rank], part.scores[row, rank] = image, score
        lists.append(part)
    return lists


def _no_neighbors(num_seeds: int, width: int) -> Neighbors:
    shape = (num_seeds, width)
    return Neighbors(np.full(shape, -1), np.full(shape, -np.inf, np.float32))
