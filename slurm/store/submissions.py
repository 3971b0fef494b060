"""Every submission of a run, before and after sbatch: shows what a killed driver left behind.

Events of a job: ``intent`` (before sbatch, with the unique name), then ``submitted`` (with the id),
``refused`` (with SLURM's reason) or ``absent`` (searched for and not there); later ``cancelled``.
An event ``retry`` records that a person asked for a new start: earlier failures no longer count.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dinoforge.slurm.store.layout import now
from dinoforge.slurm.store.lines import append_line, read_lines

__all__ = ["Submission", "Submissions"]


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
    """The append-only file; only the holder of the lease writes."""

    path: Path

    def intent(self, job: Submission) -> None:
        """Record what is about to be submitted."""
        self._add(event="intent", **asdict(job))

    def outcome(self, event: str, name: str, *, job: str = "", text: str = "") -> None:
        """Record what became of an intent."""
        self._add(event=event, name=name, job=job, text=text)

    def retry(self) -> None:
        """Start over: earlier failures are forgiven."""
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
