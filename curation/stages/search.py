"""The nearest surviving pool images of every seed, exact: candidates with scores, no policy."""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k
from dinoforge.stages import Json, Output

__all__ = ["SearchStage"]

# Pool images that one partition ranks; seeds are held whole, pool rows stream past.
_POOL_IMAGES = 65_536


class SearchStage(CurationStage):
    """Top candidates per seed among the survivors, one list per range of the pool."""

    name = "search"
    number = 65
    keys = ("retrieve", "duplicates.encoder")
    execution_keys = ("partition_images", "device", "base")
    needs = ("filter", "components", "decontaminate", "embed", "embed-meaning")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the surviving pool; none without retrieval, or without a seed left."""
        if inputs.config.retrieve.mode == "none":
            return []
        seeds, pool = tables.read_candidates(inputs)
        num = len(pool) if len(seeds) else 0
        return [{"first": a, "stop": b} for a, b in tables.split_range(num, _POOL_IMAGES)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Rank one range of the pool for every seed."""
        policy, device = inputs.config.retrieve, inputs.config.device
        seeds, pool = tables.read_candidates(inputs)
        pool = pool[payload["first"] : payload["stop"]]
        has_own = policy.encoder not in {"", inputs.config.duplicates.encoder}
        stage = "embed-meaning" if has_own else "embed"
        neighbors = top_k(
            tables.read_embeddings(inputs, stage, seeds),
            tables.read_embeddings(inputs, stage, pool),
            k=policy.num_candidates,
            backend=backend_for(device),
            device=device,
        )
        ids = np.where(neighbors.ids >= 0, pool[np.maximum(neighbors.ids, 0)], -1)
        out.write_array("ids", ids)
        out.write_array("scores", neighbors.scores.astype(np.float32))
        return {"seeds": len(seeds), "pool": len(pool)}
