"""The ledger: every submission, before and after; what a killed driver left can be told from it.

Events of a job: ``intent`` (before sbatch, with the unique name), then ``submitted`` (with the id),
``refused`` (with SLURM's words) or ``absent`` (looked for and not there); later ``cancelled``.
An event ``retry`` says that a person asked for a new start: failures before it count no more.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dinoforge.slurm.store.layout import now
from dinoforge.slurm.store.lines import append_line, read_lines

__all__ = ["Ledger", "Submission"]

JobKind = Literal["array", "gate", "probe", "ranks", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job, as the ledger tells it."""

    name: str
    kind: JobKind
    stage: str = ""
    elements: int = 1
    done: int = 0  # partitions of the stage that were done when it was submitted
    round: int = 0  # number of the driver's turn that submitted it
    step: int = 0  # of an evaluation: the step of the training that it measures
    time: str = ""  # of the intent
    job: str = ""  # id; "" until known
    outcome: str = "intent"  # intent, submitted, refused, absent, cancelled
    forgiven: bool = False  # submitted before the last `retry`


@dataclass(frozen=True)
class Ledger:
    """The append-only file; only the holder of the lease writes."""

    path: Path

    def intent(self, job: Submission) -> None:
        """Say what is about to be submitted."""
        self._add(
            event="intent",
            name=job.name,
            kind=job.kind,
            stage=job.stage,
            elements=job.elements,
            done=job.done,
            round=job.round,
            step=job.step,
        )

    def outcome(self, event: str, name: str, *, job: str = "", text: str = "") -> None:
        """Say what became of an intent."""
        self._add(event=event, name=name, job=job, text=text)

    def retry(self) -> None:
        """Begin anew: what failed before is forgiven."""
        self._add(event="retry")

    def _add(self, **line: Any) -> None:
        append_line(self.path, line | {"time": now()}, durable=True)

    def submissions(self) -> list[Submission]:
        """Every job, in order of its intent."""
        return _fold(read_lines(self.path))


def _fold(lines: Iterable[dict[str, Any]]) -> list[Submission]:
    jobs: dict[str, Submission] = {}
    for line in lines:
        event, name = line.get("event"), str(line.get("name", ""))
        if event == "intent":
            jobs[name] = Submission(
                name=name,
                kind=line["kind"],
                stage=line["stage"],
                elements=line["elements"],
                done=line["done"],
                round=line["round"],
                step=line.get("step", 0),
                time=line["time"],
            )
        elif event == "retry":
            jobs = {name: replace(job, forgiven=True) for name, job in jobs.items()}
        elif name in jobs:
            job = line.get("job") or jobs[name].job
            jobs[name] = replace(jobs[name], outcome=str(event), job=job)
    return list(jobs.values())
