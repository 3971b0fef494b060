"""The nearest surviving pool images of every seed, exact: candidates with scores, no policy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.embed import meaning_stage, read_rows
from dinoforge.curation.index import partitions_of
from dinoforge.curation.survivors import survivors
from dinoforge.errors import UsageError
from dinoforge.neighbors import backend_for, top_k
from dinoforge.stages import Inputs, Output

__all__ = ["SearchStage"]

# Pool images that one partition ranks; seeds are held whole, pool rows stream past.
_POOL_IMAGES = 65_536


@dataclass(frozen=True)
class SearchStage:
    """Top candidates per seed among the survivors, one list a range of the pool."""

    name: str = "search"
    number: int = 65
    version: str = "1.0.0"
    keys: tuple[str, ...] = ("retrieve",)
    needs: tuple[str, ...] = ("screen", "components", "decontaminate", "embed", "embed-meaning")

    def plan(self, inputs: Inputs) -> list[dict[str, Any]]:
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

    def run(self, payload: dict[str, Any], inputs: Inputs, out: Output) -> dict[str, Any]:
        """Rank one range of the pool for every seed."""
        config: CurationConfig = inputs.config
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
