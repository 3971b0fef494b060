"""All pairs of contents above a floor similarity: an exact join, block by block.

Not a top-k: the 65th copy of an image has its pair too. References are joined with all others,
not with each other. The blocks are fixed by the recipe, so the pairs are the same however they
are dealt over partitions.
"""

from collections import OrderedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stages.embed import read_rows
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors import backend_for, join_above
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["PAIRS_SCHEMA", "GraphStage", "read_pairs"]

PAIRS_SCHEMA = pa.schema([("i", pa.int64()), ("j", pa.int64()), ("similarity", pa.float32())])

# Blocks held at once: the row block and the column blocks that pass by.
_CACHED_BLOCKS = 2


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
        """Plan ranges of the list of block pairs."""
        num = len(_block_pairs(*_num_blocks(inputs)))
        step = inputs.config.duplicates.blocks_per_partition
        return [{"first": a, "stop": min(a + step, num)} for a in range(0, num, step)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Join the block pairs of one range."""
        blocks = _Blocks(inputs)
        wanted = _block_pairs(*_num_blocks(inputs))[payload["first"] : payload["stop"]]
        pairs = concat_pairs([_join(blocks, a, b, inputs) for a, b in wanted])
        table = pa.table(list(pairs), schema=PAIRS_SCHEMA)
        out.write_table("pairs", table, PAIRS_SCHEMA)
        return {"pairs": len(pairs.i), "blocks": len(wanted), "compared": blocks.compared}


def read_pairs(inputs: CurationInputs) -> Pairs:
    """Read all pairs, sorted by ``(i, j)``."""
    tables = [read_table(path) for path in inputs.files("graph", "pairs.parquet")]
    return concat_pairs(
        [Pairs(*(t.column(name).to_numpy() for name in PAIRS_SCHEMA.names)) for t in tables]
    )


def _num_blocks(inputs: CurationInputs) -> tuple[int, int]:
    size = inputs.config.duplicates.block_images
    facts = inputs.facts("exact")[0]
    return (-(-facts["joined_images"] // size), -(-facts["joined_references"] // size))


def _block_pairs(images: int, references: int) -> list[tuple[int, int]]:
    """Pairs of block numbers; reference blocks are numbered after the others."""
    return [(a, b) for a in range(images) for b in range(a, images + references)]


class _Blocks:
    """Embeddings of the last blocks that were asked for."""

    def __init__(self, inputs: CurationInputs) -> None:
        self._inputs = inputs
        self._size = inputs.config.duplicates.block_images
        self._ids = [
            np.load(inputs.file("exact", f"{side}.npy"), mmap_mode="r")
            for side in ("images", "references")
        ]
        self._first_reference = -(-len(self._ids[0]) // self._size)
        self._kept: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = OrderedDict()
        self.compared = 0

    def __getitem__(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids and unit rows of a block; images whose embedding is zero are left out."""
        if number not in self._kept:
            side = int(number >= self._first_reference)
            at = (number - side * self._first_reference) * self._size
            ids = np.array(self._ids[side][at : at + self._size])
            rows = read_rows(self._inputs, "embed", ids)
            usable = rows.any(axis=1)
            self._kept[number] = (ids[usable], rows[usable])
            while len(self._kept) > _CACHED_BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


def _join(blocks: _Blocks, a: int, b: int, inputs: CurationInputs) -> Pairs:
    ids_a, rows_a = blocks[a]
    ids_b, rows_b = blocks[b]
    num_a, num_b = len(ids_a), len(ids_b)
    blocks.compared += num_a * (num_a - 1) // 2 if a == b else num_a * num_b
    floor = inputs.config.duplicates.floor
    device = inputs.config.device
    edges = join_above(
        rows_a,
        None if a == b else rows_b,
        threshold=floor,
        backend=backend_for(device),
        device=device,
    )
    i, j = ids_a[edges.i], ids_b[edges.j]
    return Pairs(np.minimum(i, j), np.maximum(i, j), edges.similarity)
