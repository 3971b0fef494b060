"""All pairs of contents above a floor similarity: an exact join, block by block, or by cells.

Not a top-k: the 65th copy of an image has its pair too. References are joined with all others,
not with each other; what was joined in an earlier generation is not joined again. The blocks are
fixed by the recipe, so the pairs do not depend on how the blocks are split into partitions. By
cells, images are compared that share a cell, each pair in the smallest cell that they share;
references are compared with all images as ever, because a leak that is missed costs most.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stored.background import background_facts, normalize
from dinoforge.curation.stored.cell_tables import Entries, read_entries, read_sizes, runs_in_cells
from dinoforge.curation.stored.generations import every_generation
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.cell_join import Members, join_in_cell, split_cells
from dinoforge.neighbors.filter_choice import choose_filter
from dinoforge.neighbors.filters import PairFilter, PlainFilter
from dinoforge.neighbors.join import Edges, JoinRows, join_rows, prepare_rows
from dinoforge.neighbors.products import backend_for
from dinoforge.stages import Json, Output

__all__ = ["BLOCKS_AT_ONCE", "GraphStage"]

# A range of cells, or a cell joined at once, has at most so many blocks of images.
BLOCKS_AT_ONCE = 16
# Smaller cells are joined by plain products: encoding them costs as much.
_FILTERED_ROWS = 2048


class _Joined(NamedTuple):
    parts: list[Pairs]
    compared: int
    filter: str  # how candidates were found; depends on the processor, the pairs do not


class GraphStage(CurationStage):
    """Pairs of contents with their similarity, strictly above ``duplicates.floor``."""

    name = "graph"
    number = 40
    keys = (
        "duplicates.floor",
        "duplicates.block_images",
        "duplicates.blocks_per_partition",
        "partition_images",
        "duplicates.background_weight",
    )
    execution_keys = ("device", "base", "duplicates.background")
    needs = ("embed", "exact", "cells", "assign")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the block pairs, of the cells, and of block pairs in large cells."""
        num = int(_Grid.of(inputs).first_pairs[-1])
        ranges = tables.split_range(num, inputs.config.duplicates.blocks_per_partition)
        payloads: list[Json] = [{"first": first, "stop": stop} for first, stop in ranges]
        payloads += _plan_cells(inputs) if inputs.facts("cells") else []
        background = background_facts(inputs)
        return [payload | background for payload in payloads]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Join the block pairs or the cells of one range."""
        if "cell" in payload:
            joined = _join_blocks_of_cell(payload, inputs)
        elif "first_cell" in payload:
            joined = _join_cells(payload, inputs)
        else:
            joined = _join_blocks(payload, inputs)
        pairs = normalize(inputs, concat_pairs(joined.parts)).above(_floor(inputs))
        out.write_table("pairs", list(pairs), tables.PAIRS_SCHEMA)
        return {"pairs": len(pairs.i), "compared": joined.compared, "filter": joined.filter}


class _Grid(NamedTuple):
    """The pairs of blocks that are joined, numbered row by row: each row with a range of blocks."""

    ids: list[NDArray[np.int64]]  # of every block
    first_columns: NDArray[np.int64]  # block with which row a is joined first
    first_pairs: NDArray[np.int64]  # number of the first pair of row a; at the end, of all pairs

    @classmethod
    def of(cls, inputs: CurationInputs) -> "_Grid":
        """Arrange the blocks: new images, earlier images, new references, earlier references.

        A new image is joined with the new images after it and with all others; by cells, only with
        images that are in no cells, and references. An earlier image is joined with new references.
        """
        size = inputs.config.duplicates.block_images
        by_cells = bool(inputs.facts("cells"))
        *runs, _ = every_generation(inputs)
        in_cells = [run for run in runs if by_cells and run.facts("cells")]
        others = [run for run in runs if run not in in_cells]
        sides = [
            *(_cut(part, "images", size) for part in ([inputs], in_cells, others)),
            *(_cut(part, "references", size) for part in ([inputs], runs)),
        ]
        new, skipped, rest, new_references, _ = map(len, sides)
        ids = [block for side in sides for block in side]
        earlier = skipped + rest
        first = np.full(new, new + skipped) if by_cells else np.arange(new)
        counts = np.concatenate([len(ids) - first, np.full(earlier, new_references)])
        first = np.concatenate([first, np.full(earlier, new + earlier)])
        return cls(ids, first, np.cumsum([0, *counts]))

    def pair(self, number: int) -> tuple[int, int]:
        """Return the two blocks of a pair."""
        a = int(np.searchsorted(self.first_pairs, number, side="right")) - 1
        return a, int(self.first_columns[a] + number - self.first_pairs[a])


def _cut(runs: Sequence[CurationInputs], side: str, size: int) -> list[NDArray[np.int64]]:
    """Cut the ids of one side of each run into blocks."""
    parts = [np.load(run.file("exact", f"{side}.npy"), mmap_mode="r") for run in runs]
    return [part[at : at + size] for part in parts for at in range(0, len(part), size)]


def _join_blocks(payload: Json, inputs: CurationInputs) -> _Joined:
    grid = _Grid.of(inputs)

    @lru_cache(maxsize=2)
    def read(number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids and unit rows of a block, without those whose embedding is zero."""
        ids = np.array(grid.ids[number])
        rows = tables.read_embeddings(inputs, "embed", ids)
        usable = rows.any(axis=1)
        return ids[usable], rows[usable]

    pairs_of_blocks = [grid.pair(at) for at in range(payload["first"], payload["stop"])]
    sampled = sorted({pairs_of_blocks[0][0], pairs_of_blocks[-1][1]})
    sample = np.concatenate([read(number)[1] for number in sampled])
    size = inputs.config.duplicates.block_images
    pair_filter = _choose(inputs, sample, len(pairs_of_blocks) * size**2)

    @lru_cache(maxsize=2)  # the row block and the current column block
    def block(number: int) -> tuple[NDArray[np.int64], JoinRows]:
        ids, rows = read(number)
        return ids, prepare_rows(rows, pair_filter)

    parts: list[Pairs] = []
    compared = 0
    for a, b in pairs_of_blocks:
        (ids_a, rows_a), (ids_b, rows_b) = block(a), block(b)
        num_a, num_b = len(ids_a), len(ids_b)
        compared += num_a * (num_a - 1) // 2 if a == b else num_a * num_b
        edges = join_rows(rows_a, None if a == b else rows_b, threshold=_floor(inputs))
        parts.append(_as_pairs(edges, ids_a, ids_b))
    return _Joined(parts, compared, str(pair_filter))


def _plan_cells(inputs: CurationInputs) -> list[Json]:
    """Plan ranges of cells of equal work, and cells of more than 16 blocks in pairs of blocks."""
    policy = inputs.config.duplicates
    size, per_partition = policy.block_images, policy.blocks_per_partition
    payloads: list[Json] = []
    sizes, earlier = read_sizes(inputs), [read_sizes(run) for run in runs_in_cells(inputs)]
    limits = {"max_products": per_partition * size**2, "max_rows": BLOCKS_AT_ONCE * size}
    for first, stop in split_cells(sizes, others=sum(earlier, np.zeros_like(sizes)), **limits):
        blocks, *others = (-(-int(of[first:stop].sum()) // size) for of in (sizes, *earlier))
        if blocks + sum(others) <= BLOCKS_AT_ONCE:
            payloads.append({"first_cell": first, "stop_cell": stop})
            continue
        ranges = tables.split_range(
            blocks * (blocks + 1) // 2 + blocks * sum(others), per_partition
        )
        cell: Json = {"cell": first, "blocks": blocks} | ({"earlier": others} if others else {})
        payloads += [cell | {"first": a, "stop": b} for a, b in ranges]
    return payloads


def _join_cells(payload: Json, inputs: CurationInputs) -> _Joined:
    cell_range = payload["first_cell"], payload["stop_cell"]
    cells = list(read_entries(inputs, *cell_range).of_each_cell())
    earlier: dict[int, list[tuple[NDArray[np.int64], Members]]] = defaultdict(list)
    for run in runs_in_cells(inputs):
        for cell, ids, members in read_entries(run, *cell_range).of_each_cell():
            earlier[cell].append((ids, members))
    sizes = [len(ids) for _, ids, _ in cells]
    large = [size for size in sizes if size >= _FILTERED_ROWS]
    sample = cells[int(np.argmax(sizes))][2].rows if large else np.zeros((0, 0), np.float32)
    pair_filter = _choose(inputs, sample, sum(size**2 // 2 for size in large))
    plain = PlainFilter(backend_for(inputs.config.device), inputs.config.device)
    parts: list[Pairs] = []
    compared = 0
    for cell, ids, members in cells:
        compared += len(ids) * (len(ids) - 1) // 2
        how = pair_filter if len(ids) >= _FILTERED_ROWS else plain
        edges = join_in_cell(cell, members, threshold=_floor(inputs), pair_filter=how)
        parts.append(_as_pairs(edges, ids, ids))
        for other_ids, others in earlier[cell]:
            compared += len(ids) * len(other_ids)
            edges = join_in_cell(cell, members, others, threshold=_floor(inputs), pair_filter=how)
            parts.append(_as_pairs(edges, ids, other_ids))
    return _Joined(parts, compared, str(pair_filter))


def _join_blocks_of_cell(payload: Json, inputs: CurationInputs) -> _Joined:
    cell, blocks, size = payload["cell"], payload["blocks"], inputs.config.duplicates.block_images
    runs = [inputs, *runs_in_cells(inputs)]
    counts = [blocks, *payload.get("earlier", [])]
    places = [(run, at) for run, count in zip(runs, counts, strict=True) for at in range(count)]

    @lru_cache(maxsize=2)  # the row block and the current column block
    def block(number: int) -> Entries:
        run, at = places[number]
        return read_entries(run, cell, cell + 1, at * size, (at + 1) * size)

    parts: list[Pairs] = []
    compared = 0
    pairs_of_blocks = [(a, b) for a in range(blocks) for b in range(a, len(places))]
    pairs_of_blocks = pairs_of_blocks[payload["first"] : payload["stop"]]
    sample = block(pairs_of_blocks[0][0]).members.rows
    pair_filter = _choose(inputs, sample, len(pairs_of_blocks) * size**2)
    for a, b in pairs_of_blocks:
        left, right = block(a), block(b)
        num_a, num_b = len(left.ids), len(right.ids)
        compared += num_a * (num_a - 1) // 2 if a == b else num_a * num_b
        other = None if a == b else right.members
        edges = join_in_cell(
            cell, left.members, other, threshold=_floor(inputs), pair_filter=pair_filter
        )
        parts.append(_as_pairs(edges, left.ids, right.ids))
    return _Joined(parts, compared, str(pair_filter))


def _floor(inputs: CurationInputs) -> float:
    return inputs.config.duplicates.floor


def _choose(inputs: CurationInputs, sample: NDArray[np.float32], num_products: int) -> PairFilter:
    """Choose how candidates are proposed in so many comparisons of rows like these."""
    device = inputs.config.device
    return choose_filter(
        sample,
        threshold=_floor(inputs),
        num_products=num_products,
        backend=backend_for(device),
        device=device,
    )


def _as_pairs(edges: Edges, ids_a: NDArray[np.int64], ids_b: NDArray[np.int64]) -> Pairs:
    i, j = ids_a[edges.i], ids_b[edges.j]
    return Pairs(np.minimum(i, j), np.maximum(i, j), edges.similarity)
