"""Which seed gets which neighbor: the candidates of all partitions merged, the policy applied."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.policies.slots import Slots, cap_slots, collisions, concat_slots, take_slots
from dinoforge.curation.retrieve_config import RuleConfig
from dinoforge.curation.stored.generations import earlier_generations, first_id
from dinoforge.curation.stored.seed_sets import every_rule, read_seed_set
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
    needs = ("ingest", "plant", "filter", "components", "decontaminate", "search")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none without retrieval."""
        return [] if inputs.config.retrieve.mode == "none" else [{}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Merge the lists and apply the policy of every rule."""
        policy = inputs.config.retrieve
        every_seed, pools = tables.read_retrievable(inputs)
        seeds, num_pool = np.concatenate(every_seed), len(pools[-1])
        retrieved = [_retrieve(inputs, number, seeds) for number in range(len(every_rule(policy)))]
        stored = pa.concat_tables([one.table for one in retrieved])
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
    """What one rule retrieved."""

    rule: RuleConfig
    num_seeds: int
    asked: int  # slots requested
    before_cap: int  # slots granted
    granted: Slots  # of these, those that the cap leaves
    table: pa.Table  # all candidates, as stored

    def count(self, pool_size: int) -> Json:
        """Count slots and collisions; multiplicities and the Gini coefficient are of this rule."""
        rule = self.rule
        return {
            "name": rule.label,
            "seed_set": rule.seeds,
            "mode": rule.mode,
            "weight": rule.weight,
            "seeds": self.num_seeds,
            "before_cap": self.before_cap,
            **collisions(self.granted, asked=self.asked, pool_size=pool_size),
        }


def _retrieve(inputs: CurationInputs, number: int, seeds: NDArray[np.int64]) -> _Retrieved:
    """Apply one rule; the numbers of the seeds of its slots are those among all ``seeds``."""
    policy = inputs.config.retrieve
    rule = every_rule(policy)[number]
    at = read_seed_set(inputs, rule.seeds, seeds)
    width = rule.num_candidates(policy.candidates)
    merged = _merged(inputs, seeds[at], rule.seeds, width)
    chosen = take_slots(merged.ids, merged.scores, k=rule.k, policy=rule.policy, rule=number)
    granted = cap_slots(
        chosen,
        rule.cap,
        multiset=rule.policy == "multiset",
        seed=inputs.config.seed,
        purpose=f"retrieve/{rule.label}/cap",
    )
    every = take_slots(merged.ids, merged.scores, k=width, policy="multiset", rule=number)
    is_granted = np.isin(every.seed * width + every.rank, granted.seed * width + granted.rank)
    columns = [seeds[at[every.seed]], every.rank, every.image_id, every.score, is_granted]
    return _Retrieved(
        rule=rule,
        num_seeds=len(at),
        asked=rule.k * len(at),
        before_cap=len(chosen.image_id),
        granted=replace(granted, seed=at[granted.seed]),
        table=pa.table([*columns, every.rule], schema=tables.SLOTS_SCHEMA),
    )


def _merged(
    inputs: CurationInputs, seeds: NDArray[np.int64], seed_set: str, width: int
) -> Neighbors:
    """Merge the lists of all partitions, and those that the base has stored of its seeds."""
    num = len(seeds)
    lists = [_no_neighbors(num, width), *_read_base(inputs, seeds)]
    files = [inputs.files("search", f"{name}.npy") for name in ("ids", "scores")]
    for facts, *paths in zip(inputs.facts("search"), *files, strict=True):
        if facts["set"] != seed_set:
            continue
        ids, scores = (np.load(path) for path in paths)
        part = _no_neighbors(num, ids.shape[1])
        # Only the seeds of this run, which are the last, are compared with earlier pools.
        part.ids[num - len(ids) :], part.scores[num - len(ids) :] = ids, scores
        lists.append(part)
    return merge_top_k(lists)


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
