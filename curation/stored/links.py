"""Which pairs of contents show the same picture: a rule, applied to stored measurements.

A link is a pair that the rule accepts. Its strength is the cosine, or for a pair that was compared
on its pixels the correlation of the finest details.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.config import VerifyConfig
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
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
    return threshold if policy.mode == "off" else min(threshold, policy.min_correlation)


def iter_links(
    inputs: CurationInputs, threshold: float, *, min_correlation: float | None = None
) -> Iterator[Pairs]:
    """Yield the links, a file at a time; cosines count strictly above ``threshold``.

    Where two pictures could be compared on their pixels, only that decides; by default with the
    ``min_correlation`` of the recipe.
    """
    policy = inputs.config.duplicates.verify
    compared = policy.mode != "off"
    verifiable = read_verifiable(inputs) if compared else None
    for path in inputs.files("graph", "pairs.parquet"):
        pairs = Pairs(*(c.to_numpy() for c in read_table(path).columns)).above(threshold)
        if verifiable is not None:
            pairs = pairs.where(~(verifiable[pairs.i] & verifiable[pairs.j]))
        yield pairs
    for path in inputs.files("verify", "verified.parquet") if compared else []:
        verdict = Verdict(*(c.to_numpy() for c in read_table(path, Verdict._fields).columns))
        accepted = is_copy(
            verdict,
            min_places=policy.min_places,
            min_correlation=(
                policy.min_correlation if min_correlation is None else min_correlation
            ),
            min_overlap=policy.min_overlap,
        )
        yield Pairs(verdict.i, verdict.j, verdict.correlation).where(accepted)


def read_strengths(inputs: CurationInputs, threshold: float) -> Pairs:
    """Read all pairs that may be links if `weakest` is lowered, with their strength.

    Without a comparison on the pixels these are all stored pairs; with one, pairs that agree in
    enough places, whatever their correlation, and those whose cosine is above ``threshold``.
    """
    if inputs.config.duplicates.verify.mode == "off":
        return tables.read_pairs(inputs)
    return concat_pairs(list(iter_links(inputs, threshold, min_correlation=0)))


def read_verifiable(inputs: CurationInputs) -> NDArray[np.bool_]:
    """Return which contents have enough keypoints to be compared on their pixels, by image id."""
    verifiable = np.zeros(len(tables.read_content(inputs)), np.bool_)
    columns = (inputs.files("keypoints", f"{name}.npy") for name in ("ids", "verifiable"))
    for ids, values in zip(*columns, strict=True):
        verifiable[np.load(ids)] = np.load(values)
    return verifiable


def read_places(
    inputs: CurationInputs, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Read in how many places the contents ``i`` and ``j`` agree; -1 if they were not compared."""
    places = np.full(len(i), -1, np.int32)
    if inputs.config.duplicates.verify.mode == "off" or not len(i):
        return places
    num = len(tables.read_content(inputs))
    wanted = np.minimum(i, j) * num + np.maximum(i, j)
    order = np.argsort(wanted, kind="stable")
    for path in inputs.files("verify", "verified.parquet"):
        low, high, values = (c.to_numpy() for c in read_table(path, Verdict._fields[:3]).columns)
        keys = low * num + high  # sorted, and no key is in two files
        at = np.searchsorted(keys, wanted[order]).clip(max=max(len(keys) - 1, 0))
        if len(keys):
            hit = keys[at] == wanted[order]
            places[order[hit]] = values[at[hit]]
    return places
