"""Which pairs of contents show the same picture: a rule, applied to stored measurements.

A link is a pair that the rule accepts. Its strength is the cosine, or for a pair that was compared
on its pixels the correlation of the finest details.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.config import VerifyConfig
from dinoforge.curation.policies.pairs import Pairs, gather
from dinoforge.curation.stored.generations import every_generation
from dinoforge.curation.tables import CurationInputs
from dinoforge.tables import read_table
from dinoforge.verification.compare import is_copy

__all__ = [
    "LINK_KEYS",
    "LINK_STAGES",
    "iter_links",
    "read_places",
    "read_strengths",
    "read_verifiable",
    "weakest",
]

# Keys and stages that the functions below read: those of every stage that calls `iter_links`.
LINK_KEYS = (
    "duplicates.verify.mode",
    "duplicates.verify.min_places",
    "duplicates.verify.min_correlation",
    "duplicates.verify.min_overlap",
)
LINK_STAGES = ("exact", "graph", "keypoints", "verify")

_ROUNDING = 1e-6  # of the correlation in reports


class Verdict(NamedTuple):
    """Columns of the pairs that were compared on their pixels; see `Comparison`."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    places: NDArray[np.int32]
    correlation: NDArray[np.float32]
    overlap_a: NDArray[np.float32]
    overlap_b: NDArray[np.float32]


def weakest(policy: VerifyConfig, threshold: float) -> float:
    """Return what every link is stronger than, whichever way it was decided."""
    return threshold if policy.mode == "none" else min(threshold, policy.min_correlation)


def iter_links(inputs: CurationInputs, threshold: float) -> Iterator[Pairs]:
    """Yield the links, a file at a time; cosines count strictly above ``threshold``.

    Where two pictures were compared on their pixels, that decides. Of a picture with few keypoints
    not every copy is recognized: there the cosine decides if it is above the threshold.
    """
    for pairs, is_link in _iter_strengths(inputs, threshold):
        yield pairs.where(is_link)


def read_strengths(inputs: CurationInputs, threshold: float) -> tuple[Pairs, NDArray[np.bool_]]:
    """Read the links and the pairs that just miss, with their strength, and which are links.

    A pair that misses has a cosine above the floor, or was compared on its pixels and agrees in
    enough places, whatever its correlation. Sorted by ``(i, j)``.
    """
    parts = list(_iter_strengths(inputs, threshold))
    pairs = gather(pairs for pairs, _ in parts)
    is_link = np.concatenate([np.zeros(0, np.bool_), *(mask for _, mask in parts)])
    order = np.lexsort((pairs.j, pairs.i))
    return Pairs(pairs.i[order], pairs.j[order], pairs.similarity[order]), is_link[order]


def _iter_strengths(
    inputs: CurationInputs, threshold: float
) -> Iterator[tuple[Pairs, NDArray[np.bool_]]]:
    policy = inputs.config.duplicates.verify
    is_off = policy.mode == "none"
    decisive = np.zeros(0, np.bool_) if is_off else _read_flags(inputs, "decisive")
    accepted = [np.zeros(0, np.int64)]  # keys of links of pictures with few keypoints
    for path in [] if is_off else _files(inputs, "verify", "verified.parquet"):
        verdict = Verdict(*(c.to_numpy() for c in read_table(path, Verdict._fields).columns))
        is_near, is_link = (
            is_copy(
                verdict,
                min_places=policy.min_places,
                min_correlation=min_correlation,
                min_overlap=policy.min_overlap,
            )
            for min_correlation in (0.0, policy.min_correlation)
        )
        pairs = Pairs(verdict.i, verdict.j, verdict.correlation)
        has_few = ~(decisive[pairs.i] & decisive[pairs.j])
        accepted.append(_keys(pairs.where(is_link & has_few), len(decisive)))
        yield pairs.where(is_near), is_link[is_near]
    for path in _files(inputs, "graph", "pairs.parquet"):
        pairs = Pairs(*(c.to_numpy() for c in read_table(path).columns))
        if not is_off:
            has_few = ~(decisive[pairs.i] & decisive[pairs.j])
            is_new = ~np.isin(_keys(pairs, len(decisive)), np.concatenate(accepted))
            pairs = pairs.where(has_few & is_new)
        yield pairs, pairs.is_above(threshold)


def _keys(pairs: Pairs, num_contents: int) -> NDArray[np.int64]:
    return pairs.i * num_contents + pairs.j


def read_verifiable(inputs: CurationInputs) -> NDArray[np.bool_]:
    """Return which contents have enough keypoints to be compared on their pixels, by image id."""
    return _read_flags(inputs, "verifiable")


def _files(inputs: CurationInputs, stage: str, name: str) -> list[Path]:
    """Return the files of all generations, the oldest first."""
    return [path for of_run in every_generation(inputs) for path in of_run.files(stage, name)]


def _read_flags(inputs: CurationInputs, name: str) -> NDArray[np.bool_]:
    flags = np.zeros(len(tables.read_content(inputs)), np.bool_)
    columns = (_files(inputs, "keypoints", f"{column}.npy") for column in ("ids", name))
    for ids, values in zip(*columns, strict=True):
        flags[np.load(ids)] = np.load(values)
    return flags


def read_places(
    inputs: CurationInputs,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    strength: NDArray[np.floating],
) -> NDArray[np.int32]:
    """Read in how many places the contents ``i`` and ``j`` agree.

    -1 if they were not compared, or if ``strength`` is not the correlation: the cosine decided.
    """
    places = np.full(len(i), -1, np.int32)
    if inputs.config.duplicates.verify.mode == "none" or not len(i):
        return places
    num = len(tables.read_content(inputs))
    wanted = np.minimum(i, j) * num + np.maximum(i, j)
    order = np.argsort(wanted, kind="stable")
    for path in _files(inputs, "verify", "verified.parquet"):
        columns = read_table(path, Verdict._fields[:4]).columns
        low, high, values, correlation = (c.to_numpy() for c in columns)
        keys = low * num + high  # sorted, and no key is in two files
        at = np.searchsorted(keys, wanted[order]).clip(max=max(len(keys) - 1, 0))
        if len(keys):
            hit = keys[at] == wanted[order]
            hit &= np.abs(correlation[at] - strength[order]) < _ROUNDING
            places[order[hit]] = values[at[hit]]
    return places
