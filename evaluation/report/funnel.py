"""What became of every input image, in counts that add up."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dinoforge.curated import REASONS
from dinoforge.evaluation.report.ledger import Ledger

__all__ = ["Funnel", "FunnelStep", "make_funnel"]

_LABELS = {
    "undecodable": "cannot be decoded",
    "too_small": "too small",
    "bad_aspect": "too narrow",
    "flat": "flat (one gray value)",
    "reference": "reference images, only compared with",
    "exact_duplicate": "exact duplicates",
    "near_duplicate": "near-duplicates",
    "leak": "leaks of the reference",
    "not_retrieved": "asked for by no seed",
    "seed": "seeds",
    "as_is": "taken as they are",
    "retrieved": "retrieved for a seed",
    "kept": "survivors of the pool",
}
# Reasons whose ledger column `detail` is a cause followed by particulars.
_SPLIT = frozenset({"undecodable", "exact_duplicate", "leak"})


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """Images that left (or stayed) for one reason; ``left`` remain after it."""

    reason: str
    label: str
    images: int
    left: int
    parts: list[tuple[str, int]]  # by cause; sums to ``images`` when not empty


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """From all input images to the kept ones: ``images`` minus every drop is ``kept``."""

    images: int
    drops: list[FunnelStep]
    kept: int
    kept_as: list[FunnelStep]
    roles: dict[str, int]  # role -> images in
    planted: int  # of the images in: copies that the run planted itself


def make_funnel(ledger: Ledger) -> Funnel:
    """Count the decisions of a ledger."""
    is_kept = ledger["decision"] == "kept"
    left = len(ledger)
    drops = []
    for reason in _in_order(set(ledger["reason"][~is_kept])):
        mine = ~is_kept & (ledger["reason"] == reason)
        left -= int(mine.sum())
        drops.append(_step(ledger, reason, mine, left))
    kept = int(is_kept.sum())
    kept_as = [
        _step(ledger, reason, is_kept & (ledger["reason"] == reason), kept)
        for reason in _in_order(set(ledger["reason"][is_kept]))
    ]
    assert left == kept, "every image that is not kept was dropped for one reason"
    return Funnel(
        images=len(ledger),
        drops=drops,
        kept=kept,
        kept_as=kept_as,
        roles=dict(sorted(Counter(ledger["role"].tolist()).items())),
        planted=int((ledger["planted_from"] >= 0).sum()),
    )


def _in_order(reasons: set[str]) -> list[str]:
    known = [reason for reason in REASONS if reason in reasons]
    return known + sorted(reasons - set(REASONS))


def _step(ledger: Ledger, reason: str, mine: np.ndarray, left: int) -> FunnelStep:
    causes: Counter[str] = Counter()
    if reason in _SPLIT:
        details = ledger["detail"][mine].tolist()
        causes.update(detail.split(":")[0].replace("_", " ") or "other" for detail in details)
    # The largest cause first; one single unnamed cause says nothing.
    parts = sorted(causes.items(), key=lambda part: (-part[1], part[0]))
    label = _LABELS.get(reason, reason.replace("_", " "))
    # A dropped seed was asked only: its label among the kept ones would mislead.
    if reason == "seed" and (ledger["decision"][mine] == "dropped").all():
        label = "seeds that only asked"
    return FunnelStep(
        reason=reason,
        label=label,
        images=int(mine.sum()),
        left=left,
        parts=[] if [name for name, _ in parts] == ["other"] else parts,
    )
