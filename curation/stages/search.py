"""The nearest surviving pool images of every seed, exact: candidates with scores, no policy.

What seeds of an earlier generation have there is stored there: only new seeds are compared with it.
"""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.stored.balance import meaning_stage
from dinoforge.curation.stored.decisions import read_retrievable
from dinoforge.curation.stored.seed_sets import read_seed_set, searched_sets
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k
from dinoforge.stages import Json, Output
from dinoforge.tables import BLOCK_ROWS

__all__ = ["SearchStage"]


class SearchStage(CurationStage):
    """Top candidates per seed among the survivors, one list per range of the pool."""

    name = "search"
    number = 65
    keys = ("retrieve.encoder", "duplicates.encoder")
    # What a payload holds of these decides about its partition.
    execution_keys = (
        *("retrieve.mode", "retrieve.k", "retrieve.policy", "retrieve.candidates"),
        *("retrieve.rules", "retrieve.partition_images", "partition_images", "device", "base"),
    )
    needs = ("ingest", "plant", "survivors", "embed", "embed-meaning")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the surviving pool; none without retrieval, or without a seed left."""
        if inputs.config.retrieve.mode == "none":
            return []
        seeds, pool = read_retrievable(inputs)
        earlier, own = sum(map(len, pool[:-1])), len(pool[-1])
        # Numbers count through all pools.
        size = inputs.config.retrieve.partition_images
        ranges = tables.split_range(earlier if len(seeds[-1]) else 0, size)
        if sum(map(len, seeds)):
            own_ranges = tables.split_range(own, size)
            ranges += [(earlier + a, earlier + b) for a, b in own_ranges]
        return [
            {"set": name, "k": k, "first": a, "stop": b}
            for name, k in searched_sets(inputs.config.retrieve).items()
            for a, b in ranges
        ]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Rank one range of the pools for every seed that is compared with it."""
        device = inputs.config.device
        retrievable = read_retrievable(inputs)
        every_seed, pools = retrievable
        is_earlier = payload["first"] < sum(map(len, pools[:-1]))
        seeds = every_seed[-1] if is_earlier else np.concatenate(every_seed)
        seeds = seeds[read_seed_set(inputs, payload["set"], seeds)]
        pool = retrievable.pool_range(payload["first"], payload["stop"])
        stage = meaning_stage(inputs.config)
        rows = tables.read_embeddings(inputs, stage, pool)
        ids = np.full((len(seeds), payload["k"]), -1)
        scores = np.full(ids.shape, -np.inf, np.float32)
        for start, stop in tables.split_range(len(seeds), BLOCK_ROWS):
            nearest = top_k(
                tables.read_embeddings(inputs, stage, seeds[start:stop]),
                rows,
                k=payload["k"],
                backend=backend_for(device),
                device=device,
            )
            is_real = nearest.ids >= 0
            ids[start:stop][is_real] = pool[nearest.ids[is_real]]
            scores[start:stop] = nearest.scores
        out.write_array("ids", ids)
        out.write_array("scores", scores)
        return {"set": payload["set"], "seeds": len(seeds), "pool": len(pool)}
