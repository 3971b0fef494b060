"""Which seed gets which neighbor: the candidates of all partitions merged, the policy applied."""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.policies.slots import collisions, take_slots
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.search import Neighbors, merge_top_k
from dinoforge.stages import Json, Output

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
        seeds, pool = tables.read_candidates(inputs)
        merged = _merged(inputs, len(seeds))
        width = merged.ids.shape[1]
        granted = take_slots(merged.ids, merged.scores, k=policy.k, policy=policy.policy)
        every = take_slots(merged.ids, merged.scores, k=width, policy="multiset")
        is_granted = np.isin(every.seed * width + every.rank, granted.seed * width + granted.rank)
        columns = [seeds[every.seed], every.rank, every.image_id, every.score, is_granted]
        out.write_table("slots", columns, tables.SLOTS_SCHEMA)
        counts = collisions(granted, asked=policy.k * len(seeds), pool_size=len(pool))
        return {"seeds": len(seeds), "pool": len(pool)} | counts


def _merged(inputs: CurationInputs, num_seeds: int) -> Neighbors:
    files = [inputs.files("search", f"{name}.npy") for name in ("ids", "scores")]
    lists = [Neighbors(np.load(ids), np.load(scores)) for ids, scores in zip(*files, strict=True)]
    if lists:
        return merge_top_k(lists)
    shape = (num_seeds, inputs.config.retrieve.num_candidates)
    return Neighbors(np.full(shape, -1), np.full(shape, -np.inf, np.float32))
