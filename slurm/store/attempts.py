"""Attempts at a partition: one line at the start, one at the end; a missing end means killed."""

import os
import platform
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.store.layout import now
from dinoforge.slurm.store.lines import append_line, read_lines

__all__ = ["Attempt", "AttemptWriter", "read_attempts", "record_verdict", "starts_without_progress"]

_MOST_CHARACTERS = 2000  # of a message


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One submission's attempt at one partition; a requeued job starts several times."""

    plan: str  # name of the job
    job: str = ""  # id, ``76_3`` for an element
    host: str = ""
    starts: int = 0
    started: str = ""  # time of the last start
    outcome: str = ""  # "" while it runs, or if it was killed
    message: str = ""
    seconds: float = 0.0
    memory_gb: float = 0.0
    minutes: int = 0
    signals: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # of a training: first step of each start


class AttemptWriter:
    """Writes the lines of one attempt from inside the job."""

    def __init__(self, path: Path, *, plan: str, job: str) -> None:
        self._path, self._names = path, {"plan": plan, "job": job}
        self._began = time.monotonic()

    def start(self, *, memory_gb: float, minutes: int, step: int = 0) -> None:
        """Record the start: the limits and, for a training, the step."""
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        facts = {"host": platform.node(), "pid": os.getpid(), "restart": restart, "step": step}
        self._add("start", memory_gb=memory_gb, minutes=minutes, **facts)

    def signal(self, number: int) -> None:
        """Record a signal that arrived."""
        self._add("signal", signal=signal.Signals(number).name.removeprefix("SIG"))

    def end(self, outcome: Outcome, message: str = "") -> None:
        """Record the end."""
        seconds = round(time.monotonic() - self._began, 3)
        message = message[:_MOST_CHARACTERS]
        self._add("end", outcome=str(outcome), message=message, seconds=seconds)

    def _add(self, event: str, **facts: Any) -> None:
        append_line(self._path, {"event": event, "time": now()} | self._names | facts)


def record_verdict(path: Path, attempt: Attempt) -> None:
    """Record what a driver concluded about an attempt that did not record its end."""
    names = ("plan", "job", "outcome", "message", "memory_gb", "minutes")
    facts = {name: getattr(attempt, name) for name in names}
    facts["message"] = attempt.message[:_MOST_CHARACTERS]
    append_line(path, {"event": "classified", "time": now()} | facts)


def read_attempts(path: Path) -> list[Attempt]:
    """Read the attempts at one partition, in order of their first line."""
    attempts: dict[str, Attempt] = {}
    for line in read_lines(path):
        name = str(line.get("plan", ""))
        attempt = attempts.get(name, Attempt(plan=name))
        event = line.get("event")
        kept = {"job", "memory_gb", "minutes"}
        if event == "start":
            kept |= {"host"}
            attempt = replace(
                attempt,
                starts=attempt.starts + 1,
                started=str(line.get("time", "")),
                outcome="",
                message="",
                steps=[*attempt.steps, int(line.get("step", 0))],
            )
        elif event == "signal":
            attempt = replace(attempt, signals=[*attempt.signals, str(line.get("signal"))])
        else:
            kept |= {"outcome", "message", "seconds"}
        attempts[name] = replace(attempt, **{key: line[key] for key in kept & line.keys()})
    return list(attempts.values())


def starts_without_progress(attempts: Sequence[Attempt]) -> int:
    """Count the last starts of a training that all began at the same step."""
    steps = [step for attempt in attempts for step in attempt.steps]
    count = 0
    while count < len(steps) and steps[-1 - count] == steps[-1]:
        count += 1
    return count
