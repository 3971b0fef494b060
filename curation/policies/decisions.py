"""From the results of the stages to one decision per image: kept or dropped, reason, evidence.

The first rule that applies decides: undecodable, filtered, reference, duplicate, leak, not
retrieved, not balanced. So the counts of the reasons add up to the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.policies.duplicates import EXACT, NEAR, Groups
from dinoforge.curation.policies.slots import Slots

__all__ = [
    "Decisions",
    "Screened",
    "apply_balance",
    "apply_duplicates",
    "apply_exclusion",
    "apply_leaks",
    "apply_retrieval",
    "decide_rest",
    "start_decisions",
]

_CODE = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True)
class Screened:
    """Which images the filter admits, by image id."""

    role: NDArray[np.int8]  # index into ROLES
    reason: NDArray[np.int8]  # index into REASONS; -1 is admitted


@dataclass
class Decisions:
    """One row per image, by id from ``first`` on; -1 and NaN where a column does not apply."""

    kept: NDArray[np.bool_]
    reason: NDArray[np.int8]  # index into REASONS; -1: not decided yet
    copies: NDArray[np.int32]  # how often the image is exported
    component: NDArray[np.int64]
    duplicate_of: NDArray[np.int64]
    edge_i: NDArray[np.int64]
    edge_j: NDArray[np.int64]
    similarity: NDArray[np.float32]
    seed_id: NDArray[np.int64]
    rank: NDArray[np.int64]
    score: NDArray[np.float32]
    rule: NDArray[np.int32]  # number of the first rule that retrieved it
    first: int = 0  # earlier ids are images of the base

    def is_open(self) -> NDArray[np.bool_]:
        """Return which images are not decided yet."""
        return self.reason < 0

    def rows_in(self, image_id: NDArray[np.int64]) -> slice:
        """Return which of ascending image ids are those of these images."""
        low, high = np.searchsorted(image_id, [self.first, self.first + len(self.reason)])
        return slice(int(low), int(high))

    def drop(self, rows: NDArray[np.int64], reason: str) -> None:
        """Drop images for a reason."""
        self.reason[rows] = _CODE[reason]

    def keep(self, rows: NDArray[np.int64], reason: str) -> None:
        """Keep images for a reason, one copy each."""
        self.reason[rows] = _CODE[reason]
        self.kept[rows] = True
        self.copies[rows] = 1


def start_decisions(
    screened: Screened, *, exported: NDArray[np.bool_], first: int = 0
) -> Decisions:
    """Decide what needs no comparison: filtered images, references, seeds not to be exported.

    ``exported`` has which seeds are to be, by row; ``first`` is the id of the first image.
    """
    num = len(screened.role)
    ids = ("component", "duplicate_of", "edge_i", "edge_j", "seed_id", "rank")
    decisions = Decisions(
        kept=np.zeros(num, np.bool_),
        reason=screened.reason.copy(),
        copies=np.zeros(num, np.int32),
        **{name: np.full(num, -1, np.int64) for name in ids},
        similarity=np.full(num, np.nan, np.float32),
        score=np.full(num, np.nan, np.float32),
        rule=np.full(num, -1, np.int32),
        first=first,
    )
    for role, rows in (("reference", ~np.zeros(num, np.bool_)), ("seed", ~exported)):
        has_role = screened.role == ROLES.index(role)
        decisions.drop(np.flatnonzero(decisions.is_open() & has_role & rows), role)
    return decisions


def apply_duplicates(decisions: Decisions, image_id: NDArray[np.int64], groups: Groups) -> None:
    """Drop duplicates; record component and linking pair, also of those that are kept."""
    rows = image_id - decisions.first
    decisions.component[rows] = groups.component
    linked = groups.link >= 0
    _record_edges(decisions, image_id[linked], groups.link[linked], groups.similarity[linked])
    dropped = ~groups.kept
    decisions.duplicate_of[rows[dropped]] = groups.duplicate_of[dropped]
    for code, reason in ((EXACT, "exact_duplicate"), (NEAR, "near_duplicate")):
        decisions.drop(rows[dropped & (groups.reason == code)], reason)


def _record_edges(
    decisions: Decisions,
    image_id: NDArray[np.int64],
    partner: NDArray[np.int64],
    similarity: NDArray[np.float32],
) -> None:
    """Record the pair of each image with its partner; -1: it has none."""
    rows = image_id - decisions.first
    decisions.edge_i[rows] = np.where(partner < 0, -1, np.minimum(image_id, partner))
    decisions.edge_j[rows] = np.where(partner < 0, -1, np.maximum(image_id, partner))
    decisions.similarity[rows] = similarity


def apply_leaks(
    decisions: Decisions,
    image_id: NDArray[np.int64],
    reference: NDArray[np.int64],
    similarity: NDArray[np.float32],
    *,
    exempt: NDArray[np.bool_],
) -> None:
    """Drop open images that leak; of ``exempt`` ones (as_is) only the evidence is recorded."""
    rows = image_id - decisions.first
    open_ = decisions.is_open()[rows] | (decisions.reason[rows] == _CODE["seed"])
    rows, partner = rows[open_], reference[open_]
    decisions.duplicate_of[rows] = partner
    _record_edges(decisions, image_id[open_], partner, similarity[open_])
    decisions.drop(rows[~exempt[rows]], "leak")


def apply_exclusion(
    decisions: Decisions,
    image_id: NDArray[np.int64],
    example_id: NDArray[np.int64],
    similarity: NDArray[np.float32],
    rule: NDArray[np.int32],
) -> None:
    """Drop images that resemble an example of what is excluded; the pair is the evidence."""
    rows = image_id - decisions.first
    decisions.duplicate_of[rows], decisions.rule[rows] = example_id, rule
    _record_edges(decisions, image_id, example_id, similarity)
    decisions.drop(rows, "excluded")


def apply_retrieval(
    decisions: Decisions, slots: Slots, seed_ids: NDArray[np.int64], *, multiset: Sequence[bool]
) -> None:
    """Keep what seeds retrieved; the evidence is the best slot of each image.

    ``multiset``: of which rules an image is exported once per slot.
    """
    best = slots.first_of_each_image()
    rows = best.image_id - decisions.first
    decisions.keep(rows, "retrieved")
    decisions.seed_id[rows] = seed_ids[best.seed]
    decisions.rank[rows] = best.rank
    decisions.score[rows] = best.score
    decisions.rule[rows] = best.rule
    counted = slots.image_id[np.asarray(multiset, np.bool_)[slots.rule]]
    image, times = np.unique(counted, return_counts=True)
    decisions.copies[image - decisions.first] = times


def apply_balance(decisions: Decisions, image_id: NDArray[np.int64]) -> None:
    """Drop open images that the clusters do not keep; retrieved ones stay."""
    rows = image_id - decisions.first
    decisions.drop(rows[decisions.is_open()[rows]], "not_balanced")


def decide_rest(decisions: Decisions, screened: Screened, *, keep_survivors: bool) -> None:
    """Decide about the rest: seeds and as_is are kept; pool images depend on the policy."""
    for role in ("seed", "as_is"):
        has_role = screened.role == ROLES.index(role)
        decisions.keep(np.flatnonzero(decisions.is_open() & has_role), role)
    rest = np.flatnonzero(decisions.is_open())
    if keep_survivors:
        decisions.keep(rest, "kept")
    else:
        decisions.drop(rest, "not_retrieved")
