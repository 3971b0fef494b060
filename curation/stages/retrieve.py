"""Who gets which neighbor: the candidates of all partitions merged, the policy applied."""

import numpy as np
import pyarrow as pa

from dinoforge.curation.policies.slots import Slots, collisions, take_slots
from dinoforge.curation.survivors import survivors
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors import Neighbors, merge_top_k
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["SLOTS_SCHEMA", "RetrieveStage", "read_candidates", "read_slots"]

SLOTS_SCHEMA = pa.schema(
    [
        ("seed_id", pa.int64()),
        ("rank", pa.int64()),  # 0 is the nearest
        ("image_id", pa.int64()),
        ("score", pa.float32()),
        ("granted", pa.bool_()),
    ]
)


class RetrieveStage(CurationStage):
    """Grant slots to seeds; count how often they ask for the same image."""

    name = "retrieve"
    number = 70
    keys = ("retrieve",)
    needs = ("screen", "components", "decontaminate", "search")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none when no seeds are asked."""
        return [] if inputs.config.retrieve.mode == "none" else [{}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Merge the lists and apply the policy."""
        policy = inputs.config.retrieve
        seeds, pool = survivors(inputs)
        merged = _merged(inputs, len(seeds))
        slots = take_slots(merged.ids, merged.scores, k=policy.k, policy=policy.policy)
        every = take_slots(merged.ids, merged.scores, k=merged.ids.shape[1], policy="multiset")
        granted = np.isin(
            _slot_number(every, merged.ids.shape[1]), _slot_number(slots, merged.ids.shape[1])
        )
        columns = [seeds[every.seed], every.rank, every.image_id, every.score, granted]
        out.write_table("slots", pa.table(columns, schema=SLOTS_SCHEMA), SLOTS_SCHEMA)
        counts = collisions(slots, asked=policy.k * len(seeds), pool_size=len(pool))
        return {"seeds": len(seeds), "pool": len(pool)} | counts


def read_slots(inputs: CurationInputs) -> tuple[Slots, np.ndarray]:
    """Read the granted slots, and the ids of the seeds that their ``seed`` column numbers."""
    table = read_candidates(inputs)
    table = table.filter(table.column("granted"))
    columns = {name: table.column(name).to_numpy() for name in SLOTS_SCHEMA.names[:4]}
    seeds, seed = np.unique(columns["seed_id"], return_inverse=True)
    slots = Slots(seed.reshape(-1), columns["rank"], columns["image_id"], columns["score"])
    return slots, seeds


def read_candidates(inputs: CurationInputs) -> pa.Table:
    """Read every stored candidate, granted or not."""
    return read_table(inputs.file("retrieve", "slots.parquet"))


def _merged(inputs: CurationInputs, num_seeds: int) -> Neighbors:
    lists = [
        Neighbors(np.load(ids), np.load(scores))
        for ids, scores in zip(
            inputs.files("search", "ids.npy"), inputs.files("search", "scores.npy"), strict=True
        )
    ]
    k = inputs.config.retrieve.num_candidates
    if not lists:
        return Neighbors(np.full((num_seeds, k), -1), np.full((num_seeds, k), -np.inf, np.float32))
    return merge_top_k(lists)


def _slot_number(slots: Slots, width: int) -> np.ndarray:
    return slots.seed * width + slots.rank
