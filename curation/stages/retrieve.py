"""Which seed gets which neighbor: the candidates of all partitions merged, the policy applied."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.policies.slots import collisions, take_slots
from dinoforge.curation.stored.generations import earlier_generations, first_id
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.search import Neighbors, merge_top_k
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["RetrieveStage"]


class RetrieveStage(CurationStage):
    """Grant slots to seeds; count how often they retrieve the same image."""

    name = "retrieve"
    number = 70
    keys = ("retrieve",)
    execution_keys = ("base",)
    needs = ("filter", "components", "decontaminate", "search")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none without retrieval."""
        return [] if inputs.config.retrieve.mode == "none" else [{}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Merge the lists and apply the policy."""
        policy = inputs.config.retrieve
        every_seed, pools = tables.read_retrievable(inputs)
        seeds, pool = np.concatenate(every_seed), pools[-1]
        merged = _merged(inputs, seeds)
        width = merged.ids.shape[1]
        granted = take_slots(merged.ids, merged.scores, k=policy.k, policy=policy.policy)
        every = take_slots(merged.ids, merged.scores, k=width, policy="multiset")
        is_granted = np.isin(every.seed * width + every.rank, granted.seed * width + granted.rank)
        columns = [seeds[every.seed], every.rank, every.image_id, every.score, is_granted]
        out.write_table("slots", columns, tables.SLOTS_SCHEMA)
        granted = granted.take(np.flatnonzero(granted.image_id >= first_id(inputs)))
        counts = collisions(granted, asked=policy.k * len(seeds), pool_size=len(pool))
        return {"seeds": len(seeds), "pool": len(pool)} | counts


def _merged(inputs: CurationInputs, seeds: NDArray[np.int64]) -> Neighbors:
    """Merge the lists of all partitions, and those that the base has stored of its seeds."""
    num, width = len(seeds), inputs.config.retrieve.num_candidates
    lists = [_no_neighbors(num, width), *_read_base(inputs, seeds)]
    files = [inputs.files("search", f"{name}.npy") for name in ("ids", "scores")]
    for paths in zip(*files, strict=True):
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
