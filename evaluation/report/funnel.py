"""Counts of kept and dropped images by reason."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import REASONS
from dinoforge.evaluation.report.ledger import Ledger

__all__ = ["Funnel", "FunnelStep", "make_funnel"]

_LABELS = {
    "undecodable": "cannot be decoded",
    "too_small": "too small",
    "bad_aspect": "too narrow",
    "flat": "flat (one gray value)",
    "reference": "reference images (compared only)",
    "exact_duplicate": "exact duplicates",
    "near_duplicate": "near-duplicates",
    "leak": "reference leaks",
    "not_retrieved": "not retrieved for any seed",
    "seed": "seeds",
    "as_is": "kept as is",
    "retrieved": "retrieved for a seed",
    "kept": "remaining pool images",
}
# Reasons whose ledger column `detail` starts with a cause.
_SPLIT = frozenset({"undecodable", "exact_duplicate", "leak"})


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """Images dropped (or kept) for one reason; ``left`` remain after it."""

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
    planted: int  # input images that are copies planted by the run


def make_funnel(ledger: Ledger) -> Funnel:
    """Count the decisions of a ledger."""
    is_kept = ledger["decision"] == "kept"
    left = len(ledger)
    drops = []
    for reason in _in_order(set(ledger["reason"][~is_kept])):
        is_dropped = ~is_kept & (ledger["reason"] == reason)
        left -= int(is_dropped.sum())
        drops.append(_step(ledger, reason, is_dropped, left))
    kept = int(is_kept.sum())
    kept_as = [
        _step(ledger, reason, is_kept & (ledger["reason"] == reason), kept)
        for reason in _in_order(set(ledger["reason"][is_kept]))
    ]
    assert left == kept, "every image is kept or dropped for one reason"
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


def _step(ledger: Ledger, reason: str, rows: NDArray[np.bool_], left: int) -> FunnelStep:
    causes: Counter[str] = Counter()
    if reason in _SPLIT:
        details = ledger["detail"][rows].tolist()
        causes.update(detail.split(":")[0].replace("_", " ") or "other" for detail in details)
    # The largest cause first; a single unnamed cause is no information.
    parts = sorted(causes.items(), key=lambda part: (-part[1], part[0]))
    label = _LABELS.get(reason, reason.replace("_", " "))
    # A dropped seed only retrieved images: the label of kept seeds would mislead.
    if reason == "seed" and (ledger["decision"][rows] == "dropped").all():
        label = "seeds (used for retrieval only)"
    return FunnelStep(
        reason=reason,
        label=label,
        images=int(rows.sum()),
        left=left,
        parts=[] if [name for name, _ in parts] == ["other"] else parts,
    )
