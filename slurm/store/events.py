"""Append-only files of events, one JSON line each: submissions of a run, attempts at a partition.

A line is one ``write``; readers skip the torn last line of a writer that was killed.
"""

import contextlib
import json
import os
import platform
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dinoforge.runs import now

__all__ = [
    "Attempt",
    "AttemptWriter",
    "Submission",
    "Submissions",
    "append_line",
    "read_attempts",
    "read_lines",
]

_MOST_CHARACTERS = 2000  # of a message


def append_line(path: Path, line: dict[str, Any], *, durable: bool = False) -> None:
    """Append one line; ``durable`` waits for the disk.

    An incomplete line of a killed writer is terminated first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n"
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            data = b"\n" + data
        file.write(data)
        if durable:
            os.fsync(file)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read every complete line; none if there is no file."""
    values = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job and what became of it."""

    name: str
    kind: Literal["array", "ranks", "gate", "probe"]
    stage: str = ""
    elements: int = 1
    # at the time of submission: partitions of the stage that were done; for a training, its step
    progress: int = 0
    time: str = ""  # of the intent
    job: str = ""  # id; "" until known
    outcome: str = "intent"  # intent, submitted, refused, absent, cancelled
    forgiven: bool = False  # submitted before the last `retry`

    @property
    def is_work(self) -> bool:
        """Whether the job does partitions."""
        return self.kind in {"array", "ranks"}


@dataclass(frozen=True)
class Submissions:
    """Every submission of a run, before and after sbatch; only the holder of the lease writes.

    Events of a job: ``intent`` (before sbatch, with the unique name: shows what a killed driver
    left behind), then ``submitted`` (with the id), ``refused`` (with SLURM's reason) or ``absent``
    (searched for and not there); later ``cancelled``.
    """

    path: Path

    def intent(self, job: Submission) -> None:
        """Record what is about to be submitted."""
        self._add(event="intent", **asdict(job))

    def outcome(self, event: str, name: str, *, job: str = "", text: str = "") -> None:
        """Record what became of an intent."""
        self._add(event=event, name=name, job=job, text=text)

    def retry(self) -> None:
        """Record that a person asked for a new start: earlier failures no longer count."""
        self._add(event="retry")

    def _add(self, **line: Any) -> None:
        append_line(self.path, line | {"time": now()}, durable=True)

    def read(self) -> list[Submission]:
        """Read every job, in order of its intent."""
        jobs: dict[str, Submission] = {}
        for line in read_lines(self.path):
            event, name = line.pop("event", ""), line.get("name", "")
            if event == "intent":
                jobs[name] = Submission(**line)
            elif event == "retry":
                jobs = {name: replace(job, forgiven=True) for name, job in jobs.items()}
            elif name in jobs:
                job = line.get("job") or jobs[name].job
                jobs[name] = replace(jobs[name], outcome=event, job=job)
        return list(jobs.values())


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One submission's attempt at one partition; a requeued job starts several times."""

    plan: str  # name of the job
    job: str = ""  # id, ``76_3`` for an element
    host: str = ""
    starts: int = 0
    outcome: str = ""  # "" while it runs, or if it was killed
    message: str = ""
    memory_gb: float = 0.0
    minutes: int = 0
    signals: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # of a training: first step of each start


class AttemptWriter:
    """Records one attempt; a start without an end means that it runs or was killed."""

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

    def end(self, outcome: str, message: str = "", event: str = "end") -> None:
        """Record the end; event ``classified``: as a driver concluded, the job did not."""
        seconds = round(time.monotonic() - self._began, 3)
        self._add(event, outcome=outcome, message=message[:_MOST_CHARACTERS], seconds=seconds)

    def _add(self, event: str, **facts: Any) -> None:
        append_line(self._path, {"event": event, "time": now()} | self._names | facts)


def read_attempts(path: Path) -> list[Attempt]:
    """Read the attempts at one partition, in order of their first line."""
    attempts: dict[str, Attempt] = {}
    for line in read_lines(path):
        name = str(line.get("plan", ""))
        attempt = attempts.get(name, Attempt(plan=name))
        kept = {"job", "host", "memory_gb", "minutes", "outcome", "message"} & line.keys()
        facts = {key: line[key] for key in kept}
        if line.get("event") == "start":  # maybe again: the job was requeued
            steps = [*attempt.steps, int(line.get("step", 0))]
            facts |= {"starts": len(steps), "steps": steps, "outcome": "", "message": ""}
        elif "signal" in line:
            facts["signals"] = [*attempt.signals, str(line["signal"])]
        attempts[name] = replace(attempt, **facts)
    return list(attempts.values())
