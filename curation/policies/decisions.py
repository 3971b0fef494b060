"""From what each stage found to one decision per image: kept or dropped, the reason, the evidence.

The first rule that speaks decides: undecodable, filtered, reference, duplicate, leak, not asked
for. So the counts of the reasons add up to the number of images exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.policies.duplicates import EXACT, NEAR, Groups
from dinoforge.curation.policies.slots import Slots

__all__ = [
    "Decisions",
    "Screened",
    "apply_duplicates",
    "apply_leaks",
    "apply_retrieval",
    "decide_rest",
    "start_decisions",
]

_CODE = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True)
class Screened:
    """What the filter admits, by image id."""

    role: NDArray[np.int8]  # index into ROLES
    reason: NDArray[np.int8]  # index into REASONS; -1 is admitted


@dataclass
class Decisions:
    """One row an image, by image id; -1 and NaN where there is nothing to say."""

    kept: NDArray[np.bool_]
    reason: NDArray[np.int8]  # index into REASONS
    copies: NDArray[np.int32]  # how often the image is exported
    component: NDArray[np.int64]
    duplicate_of: NDArray[np.int64]
    edge_i: NDArray[np.int64]
    edge_j: NDArray[np.int64]
    similarity: NDArray[np.float32]
    seed_id: NDArray[np.int64]
    rank: NDArray[np.int64]
    score: NDArray[np.float32]

    def is_open(self) -> NDArray[np.bool_]:
        """Images about which nothing was decided yet."""
        return self.reason < 0

    def drop(self, rows: NDArray[np.int64], reason: str) -> None:
        """Drop images for a reason."""
        self.reason[rows] = _CODE[reason]

    def keep(self, rows: NDArray[np.int64], reason: str) -> None:
        """Keep images for a reason, one copy each."""
        self.reason[rows] = _CODE[reason]
        self.kept[rows] = True
        self.copies[rows] = 1


def start_decisions(screened: Screened, *, keep_seeds: bool) -> Decisions:
    """Decide what needs no comparison: filtered images, references, seeds that only ask."""
    num = len(screened.role)

    def none(value: float, dtype: type) -> NDArray:
        return np.full(num, value, dtype)

    decisions = Decisions(
        kept=np.zeros(num, np.bool_),
        reason=screened.reason.copy(),
        copies=np.zeros(num, np.int32),
        component=none(-1, np.int64),
        duplicate_of=none(-1, np.int64),
        edge_i=none(-1, np.int64),
        edge_j=none(-1, np.int64),
        similarity=none(np.nan, np.float32),
        seed_id=none(-1, np.int64),
        rank=none(-1, np.int64),
        score=none(np.nan, np.float32),
    )
    is_role = {role: screened.role == code for code, role in enumerate(ROLES)}
    decisions.drop(np.flatnonzero(decisions.is_open() & is_role["reference"]), "reference")
    if not keep_seeds:
        decisions.drop(np.flatnonzero(decisions.is_open() & is_role["seed"]), "seed")
    return decisions


def apply_duplicates(decisions: Decisions, image_id: NDArray[np.int64], groups: Groups) -> None:
    """Drop duplicates; note component and linking pair for those that stay, too."""
    decisions.component[image_id] = groups.component
    linked = groups.link >= 0
    rows, partner = image_id[linked], groups.link[linked]
    decisions.edge_i[rows] = np.minimum(rows, partner)
    decisions.edge_j[rows] = np.maximum(rows, partner)
    decisions.similarity[rows] = groups.similarity[linked]
    dropped = ~groups.kept
    decisions.duplicate_of[image_id[dropped]] = groups.duplicate_of[dropped]
    for code, reason in ((EXACT, "exact_duplicate"), (NEAR, "near_duplicate")):
        decisions.drop(image_id[dropped & (groups.reason == code)], reason)


def apply_leaks(
    decisions: Decisions,
    image_id: NDArray[np.int64],
    reference: NDArray[np.int64],
    similarity: NDArray[np.float32],
    *,
    exempt: NDArray[np.bool_],
) -> None:
    """Drop what leaks among the images still open; ``exempt`` (as_is) is noted, not dropped."""
    open_ = decisions.is_open()[image_id] | (decisions.reason[image_id] == _CODE["seed"])
    rows, partner, value = image_id[open_], reference[open_], similarity[open_]
    decisions.duplicate_of[rows] = partner
    decisions.edge_i[rows] = np.where(partner < 0, -1, np.minimum(rows, partner))
    decisions.edge_j[rows] = np.where(partner < 0, -1, np.maximum(rows, partner))
    decisions.similarity[rows] = value
    decisions.drop(rows[~exempt[rows]], "leak")


def apply_retrieval(
    decisions: Decisions, slots: Slots, seed_ids: NDArray[np.int64], *, multiset: bool
) -> None:
    """Keep what seeds asked for; the evidence is the best slot of each image."""
    best = slots.first_of_each_image()
    rows = best.image_id
    decisions.keep(rows, "retrieved")
    decisions.seed_id[rows] = seed_ids[best.seed]
    decisions.rank[rows] = best.rank
    decisions.score[rows] = best.score
    if multiset:
        image, times = np.unique(slots.image_id, return_counts=True)
        decisions.copies[image] = times


def decide_rest(decisions: Decisions, screened: Screened, *, keep_survivors: bool) -> None:
    """Decide about those left: seeds and as_is stay; pool images by the policy."""
    for role in ("seed", "as_is"):
        mine = screened.role == ROLES.index(role)
        decisions.keep(np.flatnonzero(decisions.is_open() & mine), role)
    rest = np.flatnonzero(decisions.is_open())
    if keep_survivors:
        decisions.keep(rest, "kept")
    else:
        decisions.drop(rest, "not_retrieved")
