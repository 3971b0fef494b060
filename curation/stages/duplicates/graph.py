"""All pairs of contents above a floor similarity: an exact join, block by block.

Not a top-k: the 65th copy of an image has its pair too. References are joined with all others,
not with each other. The blocks are fixed by the recipe, so the pairs do not depend on how the
blocks are split into partitions.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.join import join_above
from dinoforge.neighbors.products import backend_for
from dinoforge.stages import Json, Output

__all__ = ["GraphStage"]


class GraphStage(CurationStage):
    """Pairs of contents with their similarity, strictly above ``duplicates.floor``."""

    name = "graph"
    number = 40
    keys = (
        "duplicates.floor",
        "duplicates.block_images",
        "duplicates.blocks_per_partition",
        "partition_images",
    )
    execution_keys = ("device",)
    needs = ("embed", "exact")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the block pairs."""
        num = int(_first_pairs(inputs)[-1])
        ranges = tables.split_range(num, inputs.config.duplicates.blocks_per_partition)
        return [{"first": first, "stop": stop} for first, stop in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Join the block pairs of one range."""
        size, device = inputs.config.duplicates.block_images, inputs.config.device
        images, references = (
            np.load(inputs.file("exact", f"{side}.npy"), mmap_mode="r")
            for side in ("images", "references")
        )
        num_image_blocks = -(-len(images) // size)

        @lru_cache(maxsize=2)  # the row block and the current column block
        def block(number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            """Return ids and unit rows of a block, without those whose embedding is zero."""
            is_image = number < num_image_blocks
            at = (number if is_image else number - num_image_blocks) * size
            ids = np.array((images if is_image else references)[at : at + size])
            rows = tables.read_embeddings(inputs, "embed", ids)
            usable = rows.any(axis=1)
            return ids[usable], rows[usable]

        parts: list[Pairs] = []
        compared = 0
        first_pairs = _first_pairs(inputs)
        for number in range(payload["first"], payload["stop"]):
            a = int(np.searchsorted(first_pairs, number, side="right")) - 1
            b = a + number - int(first_pairs[a])
            (ids_a, rows_a), (ids_b, rows_b) = block(a), block(b)
            num_a, num_b = len(ids_a), len(ids_b)
            compared += num_a * (num_a - 1) // 2 if a == b else num_a * num_b
            edges = join_above(
                rows_a,
                None if a == b else rows_b,
                threshold=inputs.config.duplicates.floor,
                backend=backend_for(device),
                device=device,
            )
            i, j = ids_a[edges.i], ids_b[edges.j]
            parts.append(Pairs(np.minimum(i, j), np.maximum(i, j), edges.similarity))
        pairs = concat_pairs(parts)
        out.write_table("pairs", list(pairs), tables.PAIRS_SCHEMA)
        blocks = payload["stop"] - payload["first"]
        return {"pairs": len(pairs.i), "blocks": blocks, "compared": compared}


def _first_pairs(inputs: CurationInputs) -> NDArray[np.int64]:
    """Return the number of the first pair of every image block ``a``; at the end, of all pairs.

    Pairs are numbered in the order of ``(a, b)``. Block ``a`` is joined with itself and with every
    block ``b`` after it; reference blocks are numbered after the others.
    """
    size, facts = inputs.config.duplicates.block_images, inputs.facts("exact")[0]
    images, references = (-(-facts[f"joined_{side}"] // size) for side in ("images", "references"))
    return np.cumsum([0, *range(images + references, references, -1)], dtype=np.int64)
