"""Status and logs of a run on a cluster: from its files first, then from the queue."""

import contextlib
import datetime
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinoforge.config.paths import quote_path
from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import Queued, SlurmError, accounted, queue
from dinoforge.slurm.outcomes import Outcome, Row, classify
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.events import Attempt, Submission, read_attempts
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State, log_tail
from dinoforge.steps import kept_exports

__all__ = ["Failure", "RunStatus", "StageStatus", "find_logs", "read_status"]

# Attempts that are read for one stage; fewer run at once on a cluster.
_MOST_READ = 20_000
_MOST_FAILURES = 20
_NEVER_STARTS = ("PartitionNodeLimit", "PartitionTimeLimit", "DependencyNeverSatisfied")


@dataclass(frozen=True)
class StageStatus:
    """Partitions of one stage, or exported steps of one evaluation of a training."""

    name: str
    total: int | None = None  # None for a training, and before a stage is planned
    done: int = 0
    running: int = 0
    failed: int = 0
    pending: int = 0  # neither of these
    records: str = ""  # of an evaluation: records of the newest step that is done
    step: int = 0  # that step


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One partition (or rank) that failed, why, and what the user can do."""

    where: str  # square:12
    outcome: str
    message: str
    advice: str
    log: str


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Everything that ``dinoforge status`` prints."""

    run: str
    command: str
    state: State
    stages: list[StageStatus]
    jobs: dict[str, int]  # state of jobs and array elements in the queue -> count
    asked_slurm: bool  # False: from files alone
    stuck: list[str] = field(default_factory=list)  # jobs that will never start
    failures: list[Failure] = field(default_factory=list)  # the first ones
    rate_per_min: float | None = None  # partitions of the running stage
    left_s: float | None = None  # until that stage is done, at this rate
    last_line: str = ""


def read_status(run: Path) -> RunStatus:
    """Read the status of a run; works without SLURM, too.

    Raises a `UsageError` if the folder holds no run that was submitted.
    """
    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    submissions = folder.submissions.read()
    queued: list[Queued] = []
    asked_slurm = False
    with contextlib.suppress(SlurmError):
        queued = queue(launch.job_prefix, patience_s=0.0)
        asked_slurm = True
    live = {j.job if j.element is None else f"{j.job}_{j.element}" for j in queued}
    reader = _Reader(folder, launch, live if asked_slurm else None)
    stages = list(reader.stages())
    rate, left = _rate(stages, [job for job in submissions if job.stage in launch.stages])
    state = folder.read_state() or State(state="running")
    if asked_slurm and not queued and state.state == "running":
        why = [*state.why, "no job of this run is in the queue: a gate was lost or refused"]
        state = replace(state, state="waiting", why=why, do=f"dinoforge retry {quote_path(run)}")
    log_lines = log_tail(folder.run / "log" / "rank-00000.txt").splitlines()
    return RunStatus(
        run=str(run),
        command=launch.command,
        state=state,
        stages=stages,
        jobs=dict(Counter(job.state for job in queued)),
        asked_slurm=asked_slurm,
        stuck=[f"{j.job} {j.name}: {j.reason}" for j in queued if j.reason in _NEVER_STARTS],
        failures=reader.failures(),
        rate_per_min=rate,
        left_s=left,
        last_line=next((line for line in reversed(log_lines) if line.strip()), ""),
    )


@dataclass
class _Reader:
    folder: SlurmFolder
    launch: Launch
    live: set[str] | None  # ids of jobs and array elements in the queue; None: unknown
    _failed: list[tuple[str, int, Attempt]] = field(default_factory=list)

    def stages(self) -> Iterator[StageStatus]:
        """Count the partitions of every stage."""
        run = self.folder.run
        if not self.launch.stages:
            yield self._stage(self.launch.command, frozenset(), None)
        for name, place in self.launch.stages.items():
            yield self._stage(name, _part_numbers(run / place, ".done"), _total(run / place))
        for evaluation in [Evaluation(run, name) for name in self.launch.evaluations]:
            steps = kept_exports(run)
            done = frozenset(step for step in steps if evaluation.is_done(step))
            newest = max(done, default=0)
            records = str(evaluation.records(newest)) if done else ""
            stage = self._stage(evaluation.stage, done, len(steps))
            yield replace(stage, records=records, step=newest)

    def _stage(self, name: str, done: frozenset[int], total: int | None) -> StageStatus:
        """Count one stage; partitions that began and are not done are running or failed."""
        began = _part_numbers(self.folder.attempts / name, ".jsonl") - done
        running = failed = 0
        for index in sorted(began)[:_MOST_READ]:
            for last in read_attempts(self.folder.attempt(name, index))[-1:]:
                if not last.outcome and (self.live is None or last.job in self.live):
                    running += 1
                elif last.outcome != Outcome.DONE or name in self.launch.stages:
                    failed += 1
                    self._failed.append((name, index, last))
        pending = 0 if total is None else total - len(done) - running - failed
        return StageStatus(name, total, len(done), running, failed, pending)

    def failures(self) -> list[Failure]:
        """Explain the first failures that `stages` met."""
        shown = self._failed[:_MOST_FAILURES]
        silent = [attempt.job for _, _, attempt in shown if not attempt.outcome]
        # One query for all: the accounting takes a tenth of a second per query.
        rows = accounted(silent) if silent and self.live is not None else {}
        return [self._failure(*failed, rows.get(failed[2].job, [])) for failed in shown]

    def _failure(self, stage: str, index: int, attempt: Attempt, rows: Sequence[Row]) -> Failure:
        log = _log_of(self.folder, attempt, index)
        verdict = classify(attempt, rows, "" if attempt.outcome else log_tail(log))
        where = f"{stage}:{index}"
        advice = verdict.advice.replace("PARTITION", where)
        return Failure(
            where=where,
            outcome=str(verdict.outcome),
            message=verdict.message,
            advice=advice.replace("RUN", quote_path(self.folder.run)),
            log=str(log),
        )


def _log_of(folder: SlurmFolder, attempt: Attempt, index: int) -> Path:
    return folder.log(attempt.plan, attempt.job.partition("_")[2] or f"rank{index}")


def _part_numbers(folder: Path, suffix: str) -> frozenset[int]:
    """Numbers of the files ``part-00012SUFFIX`` of a folder; opens none."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)  # noqa: PTH208 - ten thousand paths take a second
    parts = [name for name in names if name.startswith("part-") and name.endswith(suffix)]
    return frozenset(int(name[len("part-") : -len(suffix)]) for name in parts)


def _total(stage: Path) -> int | None:
    """Count the partitions of a plan without parsing megabytes of payloads."""
    try:
        # `write_json` puts every payload on lines of its own, indented by two.
        return (stage / "plan.json").read_bytes().count(b"\n  {")
    except OSError:
        return None


def _rate(
    stages: Sequence[StageStatus], submissions: Sequence[Submission]
) -> tuple[float | None, float | None]:
    """Partitions per minute since the last submission of the running stage; seconds left."""
    arrays = [job for job in submissions if job.kind == "array" and job.outcome == "submitted"]
    if not arrays:
        return None, None
    last = arrays[-1]
    first = next(job for job in arrays if (job.stage, job.progress) == (last.stage, last.progress))
    stage = next(stage for stage in stages if stage.name == last.stage)
    if stage.total is None or stage.done <= first.progress or stage.done == stage.total:
        return None, None
    passed = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(first.time)
    rate = (stage.done - first.progress) / max(passed.total_seconds(), 1.0)
    return round(60 * rate, 1), round((stage.total - stage.done) / rate, 1)


def find_logs(run: Path, partition: str = "") -> list[Path]:
    """Find the logs of one partition (``12`` or ``square:12``); without one, of what failed.

    Raises a `UsageError` if there is no such run, or the partition was never started.
    """
    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    if not partition:
        failed = [Path(failure.log) for failure in read_status(folder.run).failures]
        own_log = folder.run / "log" / "rank-00000.txt"
        return [path for path in (own_log, *dict.fromkeys(failed)) if path.is_file()]
    stage, _, number = partition.rpartition(":")
    state = folder.read_state()
    stage = stage or (state.stage if state else "") or next(iter(launch.stages), launch.command)
    index = int(number) if number.isdigit() else -1
    attempts = read_attempts(folder.attempt(stage, index))
    logs = [log for log in (_log_of(folder, a, index) for a in attempts) if log.is_file()]
    if not logs:
        evaluations = [Evaluation(folder.run, name).stage for name in launch.evaluations]
        stages = ", ".join([*(launch.stages or [launch.command]), *evaluations])
        raise UsageError(
            what=f"no log of partition {partition}",
            where=str(run),
            do=f"name one that was started, as STAGE:NUMBER; stages: {stages}",
        )
    return logs
