"""What the stages cost that find near-duplicates, from `exact` to `verify`.

The seconds are those of one thread, measured on 2026-11-30 on an EPYC core with CIFAR-10 (60,000
images of 32 pixels), 1,800 photographs of clothing and 1,000 of ImageNet.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from dinoforge.curation.plan.cost import NOTHING, TOP_K_RATE, Cost, num_ranges
from dinoforge.curation.plan.reading import INSPECT
from dinoforge.curation.plan.sizes import Sizes
from dinoforge.curation.policies.joins import cells_work
from dinoforge.curation.stages.duplicates.cells import images_per_partition
from dinoforge.curation.stages.duplicates.exact import RANGE_ROWS
from dinoforge.curation.stages.duplicates.graph import BLOCKS_AT_ONCE
from dinoforge.neighbors.cell_join import split_cells
from dinoforge.neighbors.cells import SAMPLE_PER_CELL
from dinoforge.verification.votes import VOTERS, num_lists

__all__ = ["PAIRS_COSTS", "PAIRS_PER_IMAGE"]

_EXACT_S, _EXACT_ROW, _HASHED_ROW = 1.0e-6, 34.0, 60.0
PAIRS_PER_IMAGE = 0.1  # above the floor; a crawl full of copies has many more
_PAIR_BYTES = 10.6
# Comparing a pair of embeddings: fixed and per dimension, by a filter. `benchmarks/join.py`
# measured 1.6e-9 s for 128 dimensions and 3.6e-9 to 7.5e-9 s for 512.
_PAIR_S, _PAIR_S_PER_DIM = 1.2e-9, 8e-12
# Multiplications per second (`benchmarks/cells.py`, a million rows of 256 dimensions).
_TRAIN_RATE, _ASSIGN_RATE, _CELLS_RATE, _RECALL_RATE = 4.0e10, 3.4e10, 4.4e10, 4.5e10
_UNEVEN = 2.25  # cost of pairs inside cells over that of equal cells; see `choose_num_cells`
# Local features: 297 keypoints of 144 bytes and a gray picture of 54,400 bytes per photograph.
_KEYPOINTS_S, _KEYPOINTS_BYTES = 19e-3, 97_200.0
_VOTER_BYTES = 138.5  # in the index
_INDEX_RATE, _VOTE_RATE = 3.25e10, 7.5e9  # multiplications per second
_VERIFY_S, _VERIFY_MEMORY = 1.6e-3, 2.1e8
_PROPOSAL_S = 0.9e-6  # per row


def _exact(sizes: Sizes) -> Cost:
    rows = sizes.total
    held = rows * _EXACT_ROW + min(rows, RANGE_ROWS) * _HASHED_ROW
    return Cost(1, 3, core_s=rows * _EXACT_S, bytes=rows * 16.0, memory=held)


def _cells(sizes: Sizes) -> Cost:
    if not sizes.cells:
        return NOTHING
    dim, sample = sizes.encoder.dim, min(SAMPLE_PER_CELL * sizes.cells, sizes.compared)
    work = cells_work(0, dim, sizes.cells, sizes.config.duplicates.cells_per_image)
    return Cost(
        1,
        1,
        product_s=work / _TRAIN_RATE,
        flops=2 * work,
        bytes=sizes.cells * dim * 4.0,
        memory=sample * dim * 10.0 + sizes.cells * dim * 12.0,
    )


def _assign(sizes: Sizes) -> Cost:
    if not sizes.cells:
        return NOTHING
    dim, r, num = sizes.encoder.dim, sizes.config.duplicates.cells_per_image, sizes.compared
    size = images_per_partition(num, sizes.config.duplicates)
    partitions, work = num_ranges(num, size), float(num) * sizes.cells * dim
    entry = 8 + 4 * r + 2 * dim  # id, cells, row
    return Cost(
        partitions,
        5,
        product_s=work / _ASSIGN_RATE,
        flops=2 * work,
        bytes=num * r * (4.0 + entry) + partitions * sizes.cells * 8.0,
        memory=size * (2.0 * dim + 2 * r * entry) + sizes.cells * dim * 8.0,
    )


def _graph(sizes: Sizes) -> Cost:
    policy, dim = sizes.config.duplicates, sizes.encoder.dim
    num, references = sizes.compared, sizes.references
    size, per_partition = policy.block_images, policy.blocks_per_partition
    blocks_here, others = num_ranges(num, size), num_ranges(references, size)
    block_pairs, pairs = blocks_here * others, float(num) * references
    partitions, pairs_in_cells, product_s, held = 0, 0.0, 0.0, 2 * size
    if not sizes.cells:
        block_pairs += blocks_here * (blocks_here + 1) // 2
        pairs += num * (num - 1) / 2
    else:
        pairs_in_cells = (float(num) * policy.cells_per_image) ** 2 / (2 * sizes.cells)
        product_s += _UNEVEN * pairs_in_cells * dim / _CELLS_RATE
        mean = math.ceil(num * policy.cells_per_image / sizes.cells)
        rows = np.full(sizes.cells, mean)
        for first, stop in split_cells(
            rows, max_products=per_partition * size**2, max_rows=BLOCKS_AT_ONCE * size
        ):
            in_blocks = num_ranges((stop - first) * mean, size)
            whole = in_blocks <= BLOCKS_AT_ONCE
            partitions += (
                1 if whole else num_ranges(in_blocks * (in_blocks + 1) // 2, per_partition)
            )
            held = max(held, (stop - first) * mean if whole else 2 * size)
    partitions += num_ranges(block_pairs, per_partition)
    flops = 2 * dim * (pairs + pairs_in_cells)
    return Cost(
        partitions,
        1,
        product_s=product_s + pairs * (_PAIR_S + _PAIR_S_PER_DIM * dim),
        flops=flops,
        bytes=sizes.compared * PAIRS_PER_IMAGE * _PAIR_BYTES + partitions * 650.0,
        memory=held * dim * 12.0 + size * 1024 * 4.0,
    )


def _recall(sizes: Sizes) -> Cost:
    if not sizes.cells:
        return NOTHING
    policy, dim = sizes.config.duplicates, sizes.encoder.dim
    work = float(min(policy.recall_images, sizes.compared)) * sizes.compared * dim
    return Cost(
        num_ranges(sizes.compared, images_per_partition(sizes.compared, policy)),
        1,
        product_s=work / _RECALL_RATE,
        flops=2 * work,
        memory=(policy.recall_images + policy.block_images) * dim * 12.0,
    )


def _of_pictures(sizes: Sizes) -> int:
    """Partitions of ranges of pictures, one side after the other; also without any features."""
    if sizes.config.duplicates.verify.mode == "none":
        return 0
    size = sizes.config.partition_images
    return num_ranges(sizes.compared, size) + num_ranges(sizes.references, size)


def _keypoints(sizes: Sizes) -> Cost:
    num, partitions = sum(sizes.voting), _of_pictures(sizes)
    decode_s = sizes.total * (INSPECT[0] + INSPECT[1] * sizes.images.pixels)
    held = min(sizes.config.partition_images, max(sizes.voting)) * _KEYPOINTS_BYTES * 2.2
    return Cost(
        partitions, 9, num * _KEYPOINTS_S + decode_s, bytes=num * _KEYPOINTS_BYTES, memory=held
    )


def _votes_index(sizes: Sizes) -> Cost:
    policy = sizes.config.duplicates.verify
    if policy.mode == "none" or not policy.votes:
        return NOTHING
    work, stored, held = 0.0, 0.0, 0.0
    for pictures in sizes.voting:
        voters = pictures * VOTERS
        lists = num_lists(voters)
        work += 128.0 * lists * (64 * lists * 10 + voters)
        stored += voters * _VOTER_BYTES
        training = 64 * lists * 640.0
        held = max(held, voters * _VOTER_BYTES + max(training, _descriptors(sizes)))
    return Cost(2, 1, work / _INDEX_RATE, bytes=stored, memory=held)


def _descriptors(sizes: Sizes) -> float:
    """Bytes of the voters of one partition, as bytes and as floats."""
    return min(sizes.config.partition_images, max(sizes.voting)) * VOTERS * 128 * 5.0


def _proposals(sizes: Sizes) -> Cost:
    policy, dim = sizes.config.duplicates.verify, sizes.encoder.dim
    images, references = sizes.voting
    sides = [(images, images), (images, references), (references, images)]
    work = sum(
        1024.0 * asking * VOTERS * math.sqrt(asked * VOTERS) for asking, asked in sides if asked
    )
    work *= bool(policy.votes)
    products = sum(float(asking) * asked for asking, asked in sides) * bool(policy.nearest)
    rows = sum((32 * bool(policy.votes) + policy.nearest) * a for a, asked in sides if asked)
    votes_index = max(sizes.voting) * VOTERS * _VOTER_BYTES * bool(policy.votes)
    return Cost(
        _of_pictures(sizes),
        2,
        core_s=work / _VOTE_RATE,
        product_s=products * dim / TOP_K_RATE,
        flops=2 * products * dim,
        bytes=rows * 7.0,
        # The index stays in its file, in the memory that processes share.
        memory=2 * _descriptors(sizes) + votes_index + sizes.total * 17.0 + 262_144 * dim * 6.0,
    )


def _candidates(sizes: Sizes) -> Cost:
    partitions = int(_of_pictures(sizes) > 0)
    policy = sizes.config.duplicates.verify
    rows = sum(sizes.voting) * (32 + policy.nearest)
    return Cost(
        partitions,
        1,
        core_s=rows * _PROPOSAL_S,
        bytes=6700 + sizes.candidate_pairs * 1.7,
        memory=rows * 100.0,
    )


def _verify(sizes: Sizes) -> Cost:
    pairs = sizes.candidate_pairs
    partitions = num_ranges(pairs, sizes.config.duplicates.verify.pairs_per_partition)
    held = _VERIFY_MEMORY + sizes.total * 17.0
    return Cost(partitions, 1, pairs * _VERIFY_S, bytes=pairs * 10.4, memory=held)


PAIRS_COSTS: Mapping[str, Callable[[Sizes], Cost]] = {
    "exact": _exact,
    "cells": _cells,
    "assign": _assign,
    "graph": _graph,
    "recall": _recall,
    "keypoints": _keypoints,
    "votes-index": _votes_index,
    "proposals": _proposals,
    "candidates": _candidates,
    "verify": _verify,
}
