"""How a run on a cluster is: from its files first, then from the queue; works without SLURM."""

import datetime
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinoforge.errors import DinoforgeError
from dinoforge.slurm.cluster.commands import Queued, accounted, has_slurm, queue
from dinoforge.slurm.outcomes import Evidence, Outcome, Row, classify
from dinoforge.slurm.store.attempts import Attempt, read_attempts
from dinoforge.slurm.store.evaluations import Evaluation, kept_exports
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State
from dinoforge.slurm.store.logs import log_tail
from dinoforge.slurm.store.submissions import Submission, Submissions

__all__ = ["Failure", "RunStatus", "StageStatus", "read_status"]

# Attempts that are read for one stage; what runs at once on a cluster is less.
_MOST_READ = 20_000
_MOST_TOLD = 20
_NEVER_STARTS = ("PartitionNodeLimit", "PartitionTimeLimit", "DependencyNeverSatisfied")


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """Partitions of one stage, or exported steps of one evaluation of a training.

    ``total`` is None until it is planned, and of a training.
    """

    name: str
    total: int | None = None
    done: int = 0
    running: int = 0
    failed: int = 0
    records: str = ""  # of evaluations: what was measured of the newest step that is done
    step: int = 0  # that step

    @property
    def pending(self) -> int:
        """Partitions that wait: for a place, or for their turn."""
        return (self.total or 0) - self.done - self.running - self.failed


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One partition (or rank) that failed, why, and what a person can do."""

    where: str  # square:12
    outcome: str
    message: str
    advice: str
    log: str


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Everything that ``dinoforge status`` tells."""

    run: str
    command: str
    state: State
    stages: list[StageStatus]
    jobs: dict[str, int]  # state of jobs and array elements in the queue -> count
    asked_slurm: bool  # False: from files alone
    stuck: list[str] = field(default_factory=list)  # jobs that will never start
    failures: list[Failure] = field(default_factory=list)  # the first ones of each stage
    rate_per_min: float | None = None  # partitions of the stage that runs
    left_s: float | None = None  # until that stage is done, at this rate
    last_line: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        rows = [asdict(stage) | {"pending": stage.pending} for stage in self.stages]
        return asdict(self) | {"stages": rows}


def read_status(run: Path) -> RunStatus:
    """Read how a run is.

    Raises
    ------
    UsageError
        If the folder holds no run that was submitted.
    """
    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    submissions = Submissions(folder.submissions).read()
    queued, asked = _queued(launch)
    reader = _Reader(folder, launch, queued if asked else None)
    stages, failures = reader.stages()
    rate, left = _rate(stages, [job for job in submissions if job.stage in launch.stages])
    state = folder.read_state() or State(state="running")
    if asked and not queued and state.state == "running":
        do = f"dinoforge retry {run}"
        why = [*state.why, "no job of this run is in the queue: a gate was lost or refused"]
        state = State(state="waiting", stage=state.stage, why=why, do=do, time=state.time)
    stuck = [f"{job.job} {job.name}: {job.reason}" for job in queued if job.reason in _NEVER_STARTS]
    return RunStatus(
        run=str(run),
        command=launch.command,
        state=state,
        stages=stages,
        jobs=dict(Counter(job.state for job in queued)),
        asked_slurm=asked,
        stuck=stuck,
        failures=failures,
        rate_per_min=rate,
        left_s=left,
        last_line=_last_line(folder),
    )


def _queued(launch: Launch) -> tuple[list[Queued], bool]:
    if not has_slurm():
        return [], False
    try:
        return queue(launch.job_prefix, patience_s=0.0), True
    except DinoforgeError:
        return [], False


@dataclass
class _Reader:
    folder: SlurmFolder
    launch: Launch
    queued: Sequence[Queued] | None  # None: nobody knows

    def stages(self) -> tuple[list[StageStatus], list[Failure]]:
        """Count every stage; look closer at partitions that began and are not done."""
        found: list[StageStatus] = []
        failures: list[tuple[str, int, Attempt]] = []
        places = self.launch.stages or {self.launch.command: ""}
        for name, place in places.items():
            total = _total(self.folder.run / place) if place else None
            done = _markers(self.folder.run / place) if place else set()
            running, failed = self._begun(name, done)
            failures += [(name, index, attempt) for index, attempt in failed.items()]
            found.append(
                StageStatus(
                    name=name,
                    total=total,
                    done=len(done),
                    running=len(running),
                    failed=len(failed),
                )
            )
        for name in self.launch.evaluations:
            evaluation = Evaluation(self.folder.run, name)
            status, failed = self._evaluation(evaluation)
            found.append(status)
            failures += [(evaluation.stage, step, attempt) for step, attempt in failed.items()]
        return found, self._failures(failures[:_MOST_TOLD])

    def _evaluation(self, evaluation: Evaluation) -> tuple[StageStatus, dict[int, Attempt]]:
        """Count the kept exports of a training by what became of their evaluation."""
        steps = kept_exports(self.folder.run)
        done = {step for step in steps if evaluation.is_done(step)}
        running, failed = self._begun(evaluation.stage, done)
        newest = max(done, default=0)
        status = StageStatus(
            name=evaluation.stage,
            total=len(steps),
            done=len(done),
            running=len(running),
            failed=len(failed),
            records=str(evaluation.records(newest)) if done else "",
            step=newest,
        )
        return status, failed

    def _begun(self, stage: str, done: set[int]) -> tuple[set[int], dict[int, Attempt]]:
        """Partitions that began and are not done: those that run, and those that failed."""
        running: set[int] = set()
        failed: dict[int, Attempt] = {}
        begun = sorted(_numbered(self.folder.attempts(stage), ".jsonl") - done)
        live = {
            f"{j.job}_{j.element}" if j.element is not None else j.job for j in self.queued or ()
        }
        for index in begun[:_MOST_READ]:
            attempts = read_attempts(self.folder.attempt(stage, index))
            if not attempts:
                continue
            last = attempts[-1]
            if not last.outcome and (self.queued is None or last.job in live):
                running.add(index)
            elif last.outcome != Outcome.DONE or stage in self.launch.stages:
                failed[index] = last
        return running, failed

    def _failures(self, found: Sequence[tuple[str, int, Attempt]]) -> list[Failure]:
        silent = [attempt.job for _, _, attempt in found if not attempt.outcome]
        # One question for all: the accounting takes a tenth of a second, whatever is asked.
        rows = accounted(silent) if silent and self.queued is not None else {}
        return [self._failure(*one, rows.get(one[2].job, [])) for one in found]

    def _failure(self, stage: str, index: int, attempt: Attempt, rows: Sequence[Row]) -> Failure:
        log = self._log(attempt, index)
        verdict = classify(
            Evidence(
                outcome=attempt.outcome,
                message=attempt.message,
                signals=attempt.signals,
                rows=rows,
                log=log_tail(log) if not attempt.outcome else "",
            )
        )
        return Failure(
            where=f"{stage}:{index}",
            outcome=str(verdict.outcome),
            message=verdict.message,
            advice=verdict.advice.replace(
                "RUN PARTITION", f"{self.folder.run} {stage}:{index}"
            ).replace("RUN", str(self.folder.run)),
            log=str(log),
        )

    def _log(self, attempt: Attempt, index: int) -> Path:
        _, _, element = attempt.job.partition("_")
        if element:
            return self.folder.log(attempt.plan, element)
        return self.folder.rank_log(attempt.plan, index)


def _markers(stage: Path) -> set[int]:
    return _numbered(stage, ".done")


def _numbered(folder: Path, suffix: str) -> set[int]:
    """Numbers of the files ``part-00012SUFFIX`` of a folder; nothing is opened."""
    cut = -len(suffix)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return set()
    return {int(n[5:cut]) for n in names if n.endswith(suffix) and n.startswith("part-")}


def _total(stage: Path) -> int | None:
    """Count the partitions of a plan without parsing megabytes of payloads."""
    try:
        data = (stage / "plan.json").read_bytes()
    except OSError:
        return None
    # `write_json` puts every payload on lines of its own, indented by two.
    return data.count(b"\n  {")


def _rate(
    stages: Sequence[StageStatus], submissions: Sequence[Submission]
) -> tuple[float | None, float | None]:
    """Partitions a minute since the last submission of the stage that runs, and seconds left."""
    arrays = [job for job in submissions if job.kind == "array" and job.outcome == "submitted"]
    if not arrays:
        return None, None
    last = arrays[-1]
    first = next(job for job in arrays if (job.stage, job.progress) == (last.stage, last.progress))
    stage: Mapping[str, StageStatus] = {found.name: found for found in stages}
    now = stage.get(last.stage)
    passed = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(first.time)
    if now is None or now.total is None or now.done <= first.progress or now.done == now.total:
        return None, None
    rate = (now.done - first.progress) / max(passed.total_seconds(), 1.0)
    return round(60 * rate, 1), round((now.total - now.done) / rate, 1)


def _last_line(folder: SlurmFolder) -> str:
    tail = log_tail(folder.run / "log" / "rank-00000.txt").splitlines()
    return next((line for line in reversed(tail) if line.strip()), "")
