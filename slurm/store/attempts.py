"""Attempts at a partition: a line at the start, a line at the end; a missing end means killed."""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.store.layout import now
from dinoforge.slurm.store.lines import append_line, read_lines

__all__ = ["Attempt", "AttemptWriter", "judge", "read_attempts"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One submission's attempt at one partition; a job that was requeued made several starts."""

    plan: str  # name of the job
    job: str = ""  # id, ``76_3`` for an element
    host: str = ""
    starts: int = 0
    started: str = ""  # of the last start
    outcome: str = ""  # "" while it runs, or was killed
    message: str = ""
    seconds: float = 0.0
    memory_gb: float = 0.0
    minutes: int = 0
    signals: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # of a training: where each start went on


class AttemptWriter:
    """Writes the lines of one attempt from inside the job."""

    def __init__(self, path: Path, *, plan: str, job: str) -> None:
        self._path, self._names = path, {"plan": plan, "job": job}
        self._began = time.monotonic()

    def start(self, *, memory_gb: float, minutes: int, step: int = 0) -> None:
        """Say that it begins, under which limits and, for a training, from which step."""
        limits = {"memory_gb": memory_gb, "minutes": minutes}
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        facts = {"host": platform.node(), "pid": os.getpid(), "restart": restart, "step": step}
        self._add("start", **limits, **facts)

    def signal(self, name: str) -> None:
        """Say that a signal came."""
        self._add("signal", signal=name)

    def end(self, outcome: Outcome, message: str = "") -> None:
        """Say how it ended."""
        seconds = round(time.monotonic() - self._began, 3)
        self._add("end", outcome=str(outcome), message=message[:2000], seconds=seconds)

    def _add(self, event: str, **facts: Any) -> None:
        append_line(self._path, {"event": event, "time": now()} | self._names | facts)


def judge(path: Path, attempt: Attempt, outcome: Outcome, message: str) -> None:
    """Write what a gate found out about an attempt that did not say how it ended."""
    line = {
        "event": "judged",
        "time": now(),
        "plan": attempt.plan,
        "job": attempt.job,
        "outcome": str(outcome),
        "message": message[:2000],
        "memory_gb": attempt.memory_gb,
        "minutes": attempt.minutes,
    }
    append_line(path, line)


def read_attempts(path: Path) -> list[Attempt]:
    """Read the attempts at one partition, in order of their first line."""
    return _fold(read_lines(path))


def _fold(lines: Iterable[dict[str, Any]]) -> list[Attempt]:
    found: dict[str, Attempt] = {}
    for line in lines:
        name = str(line.get("plan", ""))
        before = found.get(name, Attempt(plan=name))
        limits = {key: line[key] for key in ("memory_gb", "minutes") if key in line}
        job = str(line.get("job", "")) or before.job
        event = line.get("event")
        if event == "start":
            found[name] = replace(
                before,
                job=job,
                host=str(line.get("host", "")),
                starts=before.starts + 1,
                started=str(line.get("time", "")),
                outcome="",
                message="",
                steps=[*before.steps, int(line.get("step", 0))],
                **limits,
            )
        elif event == "signal":
            found[name] = replace(before, signals=[*before.signals, str(line.get("signal"))])
        elif event in {"end", "judged"}:
            found[name] = replace(
                before,
                job=job,
                outcome=str(line.get("outcome", "")),
                message=str(line.get("message", "")),
                seconds=float(line.get("seconds", before.seconds)),
                **limits,
            )
    return list(found.values())
