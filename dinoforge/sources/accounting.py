"""The account of a command: what its sources gave, and by reason what they did not give.

Members and files that look like images are rows or named problems; nothing is lost in silence.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from dinoforge.files import write_bytes
from dinoforge.shards.index import INCOMPLETE, NOT_READ, SHARD_REASONS, Problem, problem
from dinoforge.sources.discover import SOURCE_REASONS

__all__ = ["Account", "describe_failed", "merge_problems", "name_undecodable", "write_problems"]

_NAMED = 20  # sources that were not read: there may be as many as files
_OPTIONAL = ("labeled", "not_selected", "not_downloaded")
_LISTED = 100_000  # rows of ``problems.csv``
_REASONS = {**SHARD_REASONS, **SOURCE_REASONS}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was read; made by `Account.of`."""

    images: int
    problems: Mapping[str, int] = field(default_factory=dict)  # reason -> files, members, sources
    incomplete: Sequence[Problem] = ()  # sources from which images may be missing
    undecodable: int = 0  # of ``images``, as far as they were decoded
    labeled: int = 0  # of a training by few labels: labeled images, not among ``images``
    not_selected: int = 0  # images of the sources that a recipe leaves out
    # samples that img2dataset states beside its tars and folders, but did not get: status -> number
    not_downloaded: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        images: int,
        problems: Iterable[Problem],
        *,
        undecodable: int = 0,
        not_selected: int = 0,
        not_downloaded: Mapping[str, int] | None = None,
    ) -> "Account":
        """Count images and problems."""
        reasons, incomplete = Counter[str](), []
        for entry in problems:
            reasons[entry["reason"]] += 1
            if entry["reason"] in INCOMPLETE:
                incomplete.append(entry)
        return cls(
            images=images,
            problems=dict(sorted(reasons.items())),
            incomplete=incomplete,
            undecodable=undecodable,
            not_selected=not_selected,
            not_downloaded=dict(sorted((not_downloaded or {}).items())),
        )

    @property
    def is_partial(self) -> bool:
        """Whether the sources name anything that is no image, or that was never downloaded."""
        return bool(self.problems or self.not_downloaded)

    @property
    def counts(self) -> dict[str, int]:
        """Everything that gave no pixels, by reason."""
        return dict(self.problems) | ({"undecodable": self.undecodable} if self.undecodable else {})

    def as_json(self) -> dict[str, Any]:
        """JSON object, for ``run.json``."""
        facts = {
            "images": self.images,
            "undecodable": self.undecodable,
            "problems": dict(self.problems),
            "incomplete": list(self.incomplete),
        }
        optional = {name: getattr(self, name) for name in _OPTIONAL}
        return facts | {name: value for name, value in optional.items() if value}

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> "Account | None":
        """Read the account from ``run.json``; None before the run has one."""
        known: dict[str, Any] | None = facts.get("sources")
        return None if known is None else cls(**known)

    def joined(self, starts: Iterable[Mapping[str, Any]]) -> "Account":
        """Keep what earlier starts (of ``run.json``) decoded of the same images, if it is more."""
        earlier = [account for start in starts if (account := Account.recorded(start))]
        same = [a for a in earlier if (a.images, a.problems) == (self.images, self.problems)]
        return replace(self, undecodable=max(a.undecodable for a in (self, *same)))

    def lines(self) -> list[str]:
        """Format every source from which images may be missing, then the counts."""
        lines: list[str] = []
        num_unread = 0
        for entry in self.incomplete:
            is_unread = entry["reason"] in NOT_READ
            num_unread += is_unread
            if is_unread and num_unread > _NAMED:
                continue
            what = "was not read" if is_unread else "is incomplete"
            why = f"{entry['reason']} ({_REASONS[entry['reason']]})"
            where = " ".join(filter(None, (entry["member"], entry["detail"])))
            lines.append(f"{entry['shard']} {what}: {', '.join(filter(None, (why, where)))}")
        if num_unread > _NAMED:
            lines.append(f"{num_unread - _NAMED:,} more were not read: see `run.json`")
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.items())
        problems = f"problems: {counts}" if counts else "no problems"
        rest = f", {self.not_selected:,} not selected" if self.not_selected else ""
        if self.not_downloaded:
            rest += f", {describe_failed(self.not_downloaded)}"
        labeled = f" and {self.labeled:,} labeled images" if self.labeled else ""
        return [*lines, f"{self.images:,} images{labeled} read{rest}; {problems}"]

    def log(self) -> None:
        """Log the lines, as warnings if images may be missing."""
        for line in self.lines():
            _log.log(logging.WARNING if self.incomplete else logging.INFO, "%s", line)


def describe_failed(not_downloaded: Mapping[str, int]) -> str:
    """Format the samples that img2dataset did not get: ``5 never downloaded (5 STATUS)``."""
    by_status = ", ".join(f"{number:,} {status}" for status, number in not_downloaded.items())
    return f"{sum(not_downloaded.values()):,} never downloaded ({by_status})"


def write_problems(folder: Path, problems: Sequence[Problem]) -> None:
    """Name in ``problems.csv`` of a run folder what gave no pixels, or remove the file if nothing.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    path = folder / "problems.csv"
    if not problems:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, ["shard", "member", "reason", "detail"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(problems[:_LISTED])
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
    first = f"the first {_LISTED:,} of " if len(problems) > _LISTED else ""
    noun = "problem" if len(problems) == 1 else "problems"
    _log.info("%s names %s%s %s", path, first, f"{len(problems):,}", noun)


def name_undecodable(images: pa.Table, reasons: Mapping[int, str]) -> list[Problem]:
    """Make a problem of each image that does not decode: its row in the table -> why."""
    rows = images.select(["shard", "member"]).take(pa.array(list(reasons), pa.int64()))
    return [
        problem(**row, reason="undecodable", detail=why)
        for row, why in zip(rows.to_pylist(), reasons.values(), strict=True)
    ]


def merge_problems(listings: Iterable[Iterable[Problem]]) -> list[Problem]:
    """Join the problems of several listings; a file or tar that several list counts once."""
    merged: list[Problem] = []
    seen: set[str] = set()
    for problems in listings:
        new = [entry for entry in problems if entry["shard"] not in seen]
        merged += new
        seen |= {entry["shard"] for entry in new}
    return merged
