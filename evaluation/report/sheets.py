"""Contact sheets: the images that let a person judge the curation's decisions.

Chooses and labels them; pictures are added when the page is made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dinoforge.curated import pairs_files, verified_files
from dinoforge.evaluation.report.clusters import ShownCluster, choose_clusters
from dinoforge.evaluation.report.ledger import Ledger, LedgerRow
from dinoforge.tables import read_table
from dinoforge.verification.compare import is_copy

__all__ = ["Compared", "SetLeaks", "Sheets", "Shown", "ShownGroup", "make_sheets"]

_GROUPS, _MISSES, _SEEDS, _COMPARED = 12, 12, 6, 4
_IN_GROUP, _PER_SEED = 5, 7


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image with its similarity and notes."""

    image_id: int
    key: str
    similarity: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShownGroup:
    """A head image (representative, seed, reference) and the images that belong to it."""

    head: Shown
    members: list[Shown]
    more: int = 0  # members that are not shown


@dataclass(frozen=True, kw_only=True)
class SetLeaks:
    """Images with the most similar image of one reference set, most similar first."""

    above: list[ShownGroup]  # of the threshold: leaks
    below: list[ShownGroup]


@dataclass(frozen=True, kw_only=True)
class ComparedPair:
    """Two images that were compared on their pixels."""

    a: LedgerRow
    b: LedgerRow
    places: int
    correlation: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Pairs that were compared on their pixels: how many, and the closest decisions."""

    num: int
    num_same: int
    same: list[ComparedPair]  # the least alike first
    others: list[ComparedPair]  # the most alike first


@dataclass(frozen=True)
class Sheets:
    """What is shown, out of how many."""

    duplicates: list[ShownGroup]
    num_groups: int
    misses: list[ShownGroup]
    num_misses: int
    seeds: list[ShownGroup]
    num_seeds: int
    drawn: dict[str, list[int]]  # by rule: images that it drew from clusters, of which no seed is
    leaks: dict[str, SetLeaks]  # by reference set
    num_leaks: int
    threshold: float | None
    floor: float | None
    compared: Compared | None = None
    clusters: list[ShownCluster] = field(default_factory=list)
    num_clusters: int = 0


def make_sheets(
    ledger: Ledger,
    *,
    threshold: float | None = None,
    floor: float | None = None,
    leak_threshold: float | None = None,
    references: Mapping[str, Mapping[str, Any]] | None = None,
    verify: dict[str, Any] | None = None,
) -> Sheets:
    """Choose the images to show from a curation; equal ledgers give equal sheets.

    ``threshold``, ``floor`` and ``verify`` are those of ``duplicates`` in the recipe,
    ``leak_threshold`` that of the leaks. There are no misses without a threshold, and where pixels
    decide instead of it. ``references`` are the leaks per reference set in the summary of the
    curation.
    """
    compared = _compared(ledger, verify) if verify and verify["mode"] == "pixels" else None
    clusters, num_clusters = choose_clusters(ledger)
    return Sheets(
        *_duplicates(ledger),
        *_misses(ledger, None if compared else threshold),
        *_seeds(ledger),
        _drawn(ledger),
        {
            name: _set_leaks(ledger, leaks.get("pairs", []), leak_threshold or 0.0)
            for name, leaks in (references or {}).items()
        },
        int(np.count_nonzero(ledger.own()["reason"] == "leak")),
        threshold=threshold,
        floor=floor,
        compared=compared,
        clusters=clusters,
        num_clusters=num_clusters,
    )


def _duplicates(ledger: Ledger) -> tuple[list[ShownGroup], int]:
    """Choose the least similar copy of every kind of edit, then the largest groups."""
    dropped = np.isin(ledger["reason"], ["exact_duplicate", "near_duplicate"])
    dropped[: ledger.first] = False
    rows = np.flatnonzero(dropped & (ledger["duplicate_of"] >= 0))
    heads, sizes = np.unique(ledger["duplicate_of"][rows], return_counts=True)
    chosen: list[int] = []
    edits = ledger["edit"][rows]
    for edit in sorted(set(edits.tolist()) - {""}):
        edited = rows[edits == edit]
        similarity = np.nan_to_num(ledger["similarity"][edited], nan=1.0)
        for row in edited[np.lexsort((edited, similarity))].tolist():
            head = int(ledger["duplicate_of"][row])
            if head not in chosen:
                chosen.append(head)
                break
    for at in np.lexsort((heads, -sizes)).tolist():
        if len(chosen) >= _GROUPS:
            break
        if int(heads[at]) not in chosen:
            chosen.append(int(heads[at]))
    return [_group(ledger, head, rows) for head in chosen[:_GROUPS]], len(heads)


def _group(ledger: Ledger, head: int, rows: NDArray[np.int64]) -> ShownGroup:
    kept = ledger.row(head)
    members = rows[ledger["duplicate_of"][rows] == head]
    similarity = np.nan_to_num(ledger["similarity"][members], nan=1.0)
    planted = ledger["edit"][members] != ""
    fate = "kept" if kept.decision == "kept" else kept.reason
    # Planted copies, then the least similar: the likeliest errors first.
    order = members[np.lexsort((members, similarity, ~planted))]
    return ShownGroup(
        head=_shown(kept, [fate.replace("_", " ")]),
        members=[_copy(ledger.row(at), head) for at in order[:_IN_GROUP].tolist()],
        more=max(0, len(order) - _IN_GROUP),
    )


def _copy(row: LedgerRow, head: int) -> Shown:
    notes = [f"planted: {row.edit}"] if row.edit else []
    if row.reason == "exact_duplicate":
        notes.insert(0, row.detail.split(",")[0] or "exact copy")
        return _shown(row, notes)
    # The similarity is that of the pair that links it, which may not include the head.
    if row.places >= 0:
        notes.append(f"{row.places} places")
    if head not in (row.edge_i, row.edge_j) and max(row.edge_i, row.edge_j) >= 0:
        notes.append("to another copy")
    return _shown(row, notes, row.similarity)


def _misses(ledger: Ledger, threshold: float | None) -> tuple[list[ShownGroup], int]:
    """Pairs below the threshold, most similar first; a lower threshold would join them.

    Pairs with a reference image are left out: the threshold of leaks applies to them.
    """
    paths = pairs_files(ledger.run_folder)
    if threshold is None or not paths:
        return [], 0
    is_reference = (ledger["role"] == "reference").astype(np.bool_)
    component = ledger["component"]
    best: list[tuple[float, int, int]] = []
    total = 0
    for path in paths:
        i, j, similarity = (c.to_numpy() for c in read_table(path).columns)
        is_miss = similarity.astype(np.float64) <= threshold
        below = np.flatnonzero(is_miss & ~is_reference[i] & ~is_reference[j])
        total += len(below)
        # Some of the nearest are in the same group already: take a few times more than needed.
        nearest = below[np.argsort(-similarity[below], kind="stable")[: 40 * _MISSES]]
        best += [(-float(similarity[n]), int(i[n]), int(j[n])) for n in nearest]
    shown: list[ShownGroup] = []
    seen: set[int] = set()
    for negative, i, j in sorted(best):
        if len(shown) == _MISSES:
            break
        if (component[i] == component[j] and component[i] >= 0) or seen & {i, j}:
            continue
        seen |= {i, j}
        a, b = ledger.row(i), ledger.row(j)
        members = [_shown(b, _remarks(b), -negative)]
        shown.append(ShownGroup(head=_shown(a, _remarks(a)), members=members))
    return shown, total


def _remarks(row: LedgerRow) -> list[str]:
    remarks = [row.role] if row.role in {"seed", "reference"} else []
    return [*remarks, f"planted: {row.edit}"] if row.edit else remarks


def _compared(ledger: Ledger, verify: dict[str, Any]) -> Compared:
    """Choose the pairs that were decided most narrowly, each image once."""
    limits = {name: value for name, value in verify.items() if name.startswith("min_")}
    paths = verified_files(ledger.run_folder)
    if not paths:  # no two pictures were left to compare
        return Compared(num=0, num_same=0, same=[], others=[])
    pairs = pd.concat([read_table(path).to_pandas() for path in paths])
    same = is_copy(pairs, **limits)
    others = pairs[~same & (pairs.places >= limits["min_places"])]

    def narrowest(rows: pd.DataFrame, sign: int) -> list[ComparedPair]:
        rows = rows.assign(order=sign * rows.correlation).sort_values(["order", "i", "j"])
        columns = (rows[name].tolist() for name in ("i", "j", "places", "correlation"))
        chosen: list[ComparedPair] = []
        used: set[int] = set()
        for i, j, places, correlation in zip(*columns, strict=True):
            if len(chosen) < _COMPARED and not used & {i, j}:
                ends = {"a": ledger.row(i), "b": ledger.row(j)}
                chosen.append(ComparedPair(**ends, places=places, correlation=correlation))
                used |= {i, j}
        return chosen

    return Compared(
        num=len(pairs),
        num_same=int(same.sum()),
        same=narrowest(pairs[same], 1),
        others=narrowest(others, -1),
    )


def _seeds(ledger: Ledger) -> tuple[list[ShownGroup], int]:
    """Seeds evenly spread over all of every rule that retrieved images, with those images."""
    retrieved = ledger.first + np.flatnonzero(ledger.own()["seed_id"] >= 0)
    num = len(np.unique(ledger["seed_id"][retrieved]))
    rules = np.unique(ledger["rule"][retrieved].astype(str)).tolist()  # "" without rules
    shown = []
    for rule in rules:
        of_rule = retrieved[ledger["rule"][retrieved] == rule]
        seeds = np.unique(ledger["seed_id"][of_rule])
        shown += [
            _seed(ledger, seed, of_rule[ledger["seed_id"][of_rule] == seed], rule)
            for seed in _spread(seeds.tolist(), max(2, _SEEDS // len(rules)))
        ]
    return shown, num


def _seed(ledger: Ledger, seed: int, rows: NDArray[np.int64], rule: str) -> ShownGroup:
    """Show a seed with images that it retrieved, the nearest first."""
    rows = rows[np.lexsort((rows, ledger["rank"][rows]))]
    nearest = map(ledger.row, rows[:_PER_SEED].tolist())
    return ShownGroup(
        head=_shown(ledger.row(seed), [f"seed of {rule}" if rule else "seed"]),
        # The ledger counts ranks from 0; people count from 1.
        members=[_shown(row, [f"rank {row.rank + 1}"], row.score) for row in nearest],
        more=max(0, len(rows) - _PER_SEED),
    )


def _drawn(ledger: Ledger) -> dict[str, list[int]]:
    """Images evenly spread over those that every rule drew from clusters."""
    own = ledger.own()
    is_drawn = (own["reason"] == "retrieved") & (own["seed_id"] < 0)
    rules = np.unique(own["rule"][is_drawn].astype(str)).tolist()
    rows = {rule: np.flatnonzero(is_drawn & (own["rule"] == rule)) for rule in rules}
    return {
        rule: _spread((ledger.first + of_rule).tolist(), _PER_SEED + 1)
        for rule, of_rule in rows.items()
    }


def _set_leaks(ledger: Ledger, pairs: Sequence[Mapping[str, Any]], threshold: float) -> SetLeaks:
    sides: tuple[list[ShownGroup], list[ShownGroup]] = ([], [])
    for pair in pairs:
        reference, row = ledger.row(pair["reference_id"]), ledger.row(pair["image_id"])
        fate = row.decision if row.decision == "kept" else row.reason.replace("_", " ")
        leak = _shown(row, [*_remarks(row), fate], pair["similarity"])
        group = ShownGroup(head=_shown(reference, ["reference"]), members=[leak])
        # Runs of earlier versions lack the flag.
        sides[not pair.get("is_leak", pair["similarity"] > threshold)].append(group)
    return SetLeaks(above=sides[0], below=sides[1])


def _spread(values: Sequence[int], limit: int) -> list[int]:
    if len(values) <= limit:
        return list(values)
    return [values[int(at)] for at in np.linspace(0, len(values) - 1, limit).round()]


def _shown(row: LedgerRow, notes: list[str], similarity: float = math.nan) -> Shown:
    value = float(similarity) if math.isfinite(similarity) else None
    return Shown(image_id=row.image_id, key=row.key, similarity=value, notes=notes)
