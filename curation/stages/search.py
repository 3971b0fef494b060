"""The nearest surviving pool images of every seed, exact: candidates with scores, no policy."""

import numpy as np

from dinoforge.curation.index import partitions_of
from dinoforge.curation.stages.embed import meaning_stage, read_rows
from dinoforge.curation.survivors import survivors
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.neighbors import backend_for, top_k
from dinoforge.stages import Json, Output

__all__ = ["SearchStage"]

# Pool images that one partition ranks; seeds are held whole, pool rows stream past.
_POOL_IMAGES = 65_536


class SearchStage(CurationStage):
    """Top candidates per seed among the survivors, one list a range of the pool."""

    name = "search"
    number = 65
    keys = ("retrieve", "duplicates.encoder")
    execution_keys = ("partition_images", "device")
    needs = ("screen", "components", "decontaminate", "embed", "embed-meaning")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the surviving pool; none when no seeds are asked."""
        if inputs.config.retrieve.mode == "none":
            return []
        seeds, pool = survivors(inputs)
        if not len(seeds):
            raise UsageError(
                what="no seeds are left: every one is undecodable, filtered or a leak",
                where="`sources` with role seed",
                do="give other seeds, or set retrieve.mode=none",
            )
        return [{"first": a, "stop": b} for a, b in partitions_of(len(pool), _POOL_IMAGES)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Rank one range of the pool for every seed."""
        config = inputs.config
        seeds, pool = survivors(inputs)
        mine = pool[payload["first"] : payload["stop"]]
        stage = meaning_stage(config)
        found = top_k(
            read_rows(inputs, stage, seeds),
            read_rows(inputs, stage, mine),
            k=config.retrieve.num_candidates,
            backend=backend_for(config.device),
            device=config.device,
        )
        ids = np.where(found.ids >= 0, mine[np.maximum(found.ids, 0)], -1)
        out.write_array("ids", ids)
        out.write_array("scores", found.scores.astype(np.float32))
        return {"seeds": len(seeds), "pool": len(mine)}
