"""The account of a command: what its sources gave, and by reason what they did not give.

Members and files that look like images are rows or named problems; nothing is lost in silence.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dinoforge.shards.index import INCOMPLETE, SHARD_REASONS, Problem
from dinoforge.sources.discover import SOURCE_REASONS

__all__ = ["Account", "merge_problems"]

_REASONS = {**SHARD_REASONS, **SOURCE_REASONS}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was read; made by `Account.of`."""

    images: int
    problems: Mapping[str, int] = field(default_factory=dict)  # reason -> files, members, sources
    incomplete: Sequence[Problem] = ()  # sources from which images may be missing
    undecodable: int = 0  # of ``images``, as far as they were decoded

    @classmethod
    def of(cls, images: int, problems: Iterable[Problem], *, undecodable: int = 0) -> "Account":
        """Count images and problems."""
        entries = list(problems)
        reasons = Counter(entry["reason"] for entry in entries)
        return cls(
            images=images,
            problems=dict(sorted(reasons.items())),
            incomplete=[entry for entry in entries if entry["reason"] in INCOMPLETE],
            undecodable=undecodable,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Everything that gave no pixels, by reason."""
        return dict(self.problems) | ({"undecodable": self.undecodable} if self.undecodable else {})

    def as_json(self) -> dict[str, Any]:
        """JSON object, for ``run.json``."""
        return {
            "images": self.images,
            "undecodable": self.undecodable,
            "problems": dict(self.problems),
            "incomplete": list(self.incomplete),
        }

    def line(self) -> str:
        """Format the counts in one line."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.items())
        return f"{self.images:,} images read; " + (
            f"problems: {counts}" if counts else "no problems"
        )

    def log(self) -> None:
        """Log the counts, and a warning for every source from which images may be missing."""
        for entry in self.incomplete:
            where = " ".join(part for part in (entry["member"], entry["detail"]) if part)
            _log.warning(
                "%s is incomplete: %s (%s)%s",
                entry["shard"],
                entry["reason"],
                _REASONS[entry["reason"]],
                f", {where}" if where else "",
            )
        _log.log(logging.WARNING if self.incomplete else logging.INFO, "%s", self.line())


def merge_problems(listings: Iterable[Iterable[Problem]]) -> list[Problem]:
    """Join the problems of several listings; a file or tar that several list counts once."""
    merged: list[Problem] = []
    seen: set[str] = set()
    for problems in listings:
        new = [entry for entry in problems if entry["shard"] not in seen]
        merged += new
        seen |= {entry["shard"] for entry in new}
    return merged
