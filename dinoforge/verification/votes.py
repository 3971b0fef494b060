"""Candidate pairs without a network: every local descriptor votes for the pictures of its nearest.

One index of the strongest descriptors of all pictures. Each descriptor asks for its nearest, as it
is and mirrored; neighbor k gives its picture 1 - d_k^2 / d_last^2 votes. So a descriptor that many
pictures share (a watermark, the weave of one background) has little to give: its neighbors are
all as far. Besides, a picture gets at most one vote from a descriptor and one through a descriptor.

Stages call, in this order: `choose_training_pictures`, `train_index`, `add_to_index` for every
partition, `faiss.write_index`; then, per range of pictures, `count_votes`; then `combine_votes` of
all. What a picture's votes are does not depend on the ranges.

Shapes: n pictures; q descriptors of a range.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import require_faiss
from dinoforge.verification.features import mirrored_descriptors

__all__ = [
    "VOTERS",
    "Votes",
    "add_to_index",
    "choose_training_pictures",
    "combine_votes",
    "count_votes",
    "load_index",
    "save_index",
    "strongest",
    "strongest_descriptors",
    "train_index",
    "votes_version",
]

VOTERS = 150  # the strongest descriptors of a picture
_NEIGHBORS = 6  # of a descriptor; the last one only defines what is far
_PROBES = 4  # lists that a search looks at
_KEPT = 32  # pictures that a picture votes for
_TRAINING_PER_LIST = 64
_VERSION = "1"


@dataclass(frozen=True)
class Votes:
    """Picture ``pictures[i]`` gives picture ``others[i]`` the votes ``votes[i]``."""

    pictures: NDArray[np.int64]
    others: NDArray[np.int64]
    votes: NDArray[np.float32]


def votes_version() -> str:
    """Name the parameters that votes depend on."""
    return f"{_VERSION} {VOTERS} {_NEIGHBORS} {_PROBES} {_KEPT} {_TRAINING_PER_LIST}"


def num_lists(num_descriptors: int) -> int:
    """Return the lists of an index, twice the root of the descriptors: a search costs the root."""
    return max(1, min(round(2 * math.sqrt(num_descriptors)), num_descriptors // 8))


def choose_training_pictures(num_pictures: int, *, rng_seed: int = 0) -> NDArray[np.int64]:
    """Choose the pictures, in ascending order, whose descriptors train the index."""
    wanted = -(-_TRAINING_PER_LIST * num_lists(num_pictures * VOTERS) // VOTERS)
    if wanted >= num_pictures:
        return np.arange(num_pictures)
    rng = np.random.default_rng(rng_seed)
    return np.sort(rng.choice(num_pictures, wanted, replace=False))


def strongest_descriptors(
    arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Take the voters of pictures ``rows`` of `pack_features` (all if None).

    Returns descriptors uint8 ``[q, 128]``, and of each its picture (a position in ``rows``) and its
    rank there, int64 ``[q]``.
    """
    offsets = np.asarray(arrays["point_offsets"])
    rows = np.arange(len(offsets) - 1) if rows is None else rows
    counts = np.minimum(np.diff(offsets)[rows], VOTERS)
    positions = np.repeat(np.arange(len(rows)), counts)
    ranks = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    at = offsets[rows][positions] + ranks
    return np.asarray(arrays["descriptors"][at]), positions, ranks


def train_index(descriptors: NDArray[np.uint8], num_pictures: int) -> Any:
    """Train an empty FAISS index for the descriptors of ``num_pictures`` pictures.

    ``descriptors`` are those of `choose_training_pictures`, uint8 ``[q, 128]``.

    Raises
    ------
    UsageError
        If FAISS is not installed.
    """
    faiss = _faiss()
    lists = min(num_lists(num_pictures * VOTERS), max(1, len(descriptors)))
    quantizer = faiss.IndexFlatL2(128)
    # Stores the bytes themselves: distances are exact, and whole numbers.
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, 128, lists, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2, False
    )
    index.cp.min_points_per_centroid = 1
    index.cp.niter = 10
    if len(descriptors):
        index.train(descriptors.astype(np.float32))
    return index


def add_to_index(index: Any, arrays: Mapping[str, NDArray[Any]], first_picture: int) -> None:
    """Add the pictures of `pack_features`, numbered from ``first_picture``; in ascending order."""
    _faiss()
    descriptors, positions, ranks = strongest_descriptors(arrays)
    if len(descriptors):
        ids = (first_picture + positions) * VOTERS + ranks
        index.add_with_ids(descriptors.astype(np.float32), ids)


def save_index(index: Any, path: str) -> None:
    """Write the index to a file."""
    _faiss().write_index(index, path)


def load_index(path: str) -> Any:
    """Read an index; its lists stay in the file, shared by the processes of a machine."""
    faiss = _faiss()
    return faiss.read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def count_votes(index: Any, arrays: Mapping[str, NDArray[Any]], first_picture: int) -> Votes:
    """Count the votes that the pictures of `pack_features` give, from the number ``first_picture``.

    The pictures need not be in the index. Each keeps the 32 others to which it gives most.
    """
    _faiss()
    index.nprobe = _PROBES
    descriptors, positions, _ = strongest_descriptors(arrays)
    pictures = first_picture + positions
    if not len(descriptors) or not index.ntotal:
        return _no_votes()
    plain = _ballots(index, descriptors, pictures)
    mirror = _ballots(index, mirrored_descriptors(descriptors), pictures)
    return strongest([plain, mirror], _KEPT)


def combine_votes(parts: Sequence[Votes], *, top: int = 5) -> Votes:
    """Return the candidate pairs: per picture the ``top`` others of most votes, of either.

    Votes are made symmetric first: a pair has the larger of what one gives the other. ``pictures``
    are smaller than ``others``; pairs are in ascending order.
    """
    parts = [_no_votes(), *parts]
    a, b, votes = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("pictures", "others", "votes")
    )
    pairs = _largest(Votes(np.minimum(a, b), np.maximum(a, b), votes))
    directed = Votes(
        np.concatenate([pairs.pictures, pairs.others]),
        np.concatenate([pairs.others, pairs.pictures]),
        np.concatenate([pairs.votes, pairs.votes]),
    )
    best = _most(directed, top)
    low, high = (pick(best.pictures, best.others) for pick in (np.minimum, np.maximum))
    return _largest(Votes(low, high, best.votes))


def strongest(parts: Sequence[Votes], count: int) -> Votes:
    """Return the ``count`` others of most votes of every picture; of a pair the largest counts."""
    joined = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("pictures", "others", "votes")
    )
    return _most(_largest(Votes(*joined)), count)


def _ballots(index: Any, descriptors: NDArray[np.uint8], pictures: NDArray[np.int64]) -> Votes:
    squares, ids = index.search(descriptors.astype(np.float32), _NEIGHBORS)
    last = squares[:, -1:]
    usable = (ids[:, -1:] >= 0) & (last > 0)
    weights = 1 - squares[:, :-1] / np.where(usable, last, 1)
    weights = np.where(usable, np.maximum(weights, 0), 0).astype(np.float32)
    ids = ids[:, :-1]
    others = ids // VOTERS
    keep = (others != pictures[:, None]) & (weights > 0)
    voters = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)[keep]
    pictures = pictures[voters]
    ids, others, weights = ids[keep], others[keep], weights[keep]
    # One vote per descriptor and picture, then one per picture and descriptor voted for.
    kept = _first_of((voters, others), weights)
    kept = kept[_first_of((pictures[kept], ids[kept]), weights[kept])]
    return _sums(Votes(pictures[kept], others[kept], weights[kept]))


def _first_of(
    keys: tuple[NDArray[np.int64], NDArray[np.int64]], weights: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return, of all rows with the same keys, the first of the largest weight."""
    order = np.lexsort((-weights, keys[1], keys[0]))
    return order[_begins(keys[0][order], keys[1][order])]


def _begins(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows of sorted pairs differ from the row before."""
    begins = np.ones(len(a), np.bool_)
    begins[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return begins


def _sums(votes: Votes) -> Votes:
    order = np.lexsort((votes.votes, votes.others, votes.pictures))
    a, b = votes.pictures[order], votes.others[order]
    starts = np.flatnonzero(_begins(a, b))
    if not len(starts):
        return votes
    totals = np.add.reduceat(votes.votes[order].astype(np.float64), starts)
    return Votes(a[starts], b[starts], totals.astype(np.float32))


def _largest(votes: Votes) -> Votes:
    """Keep the largest of every pair, sorted by pair."""
    kept = _first_of((votes.pictures, votes.others), votes.votes)
    return Votes(votes.pictures[kept], votes.others[kept], votes.votes[kept])


def _most(votes: Votes, count: int) -> Votes:
    """Keep the ``count`` largest of every picture, ties to the lower number."""
    order = np.lexsort((votes.others, -votes.votes, votes.pictures))
    pictures = votes.pictures[order]
    starts = np.searchsorted(pictures, pictures)
    kept = order[np.arange(len(order)) - starts < count]
    return Votes(votes.pictures[kept], votes.others[kept], votes.votes[kept])


def _no_votes() -> Votes:
    none = np.zeros(0, np.int64)
    return Votes(none, none, np.zeros(0, np.float32))


def _faiss() -> Any:
    faiss = require_faiss()
    faiss.omp_set_num_threads(1)
    return faiss
