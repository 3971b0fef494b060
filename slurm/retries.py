"""What to do about partitions that are not done: how their attempts ended, and what that means.

`decide` and `decide_all` are pure functions of the endings; `History` reads these.
"""

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dinoforge.slurm.cluster.commands import Queued, SlurmError, accounted, shown
from dinoforge.slurm.cluster.limits import read_partitions
from dinoforge.slurm.outcomes import NOT_STARTED, Outcome, Verdict, classify
from dinoforge.slurm.profile import Job
from dinoforge.slurm.store.events import Attempt, AttemptWriter, Submission, read_attempts
from dinoforge.slurm.store.layout import JobPlan, SlurmFolder, log_tail

__all__ = [
    "Decisions",
    "Ending",
    "History",
    "Limits",
    "decide",
    "decide_all",
    "most_limits",
    "since_progress",
]

# Every element fails alike, or a person has to act.
_FINAL = {Outcome.SETUP, Outcome.USAGE, Outcome.USER, Outcome.DEVICE_MEMORY, Outcome.NO_PROGRESS}
# The fault of the partition, if it happens twice.
_FAULTS = {Outcome.SETUP, Outcome.EXCEPTION, Outcome.NO_MARKER}
_KILLS = {Outcome.MEMORY, Outcome.KILLED}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt at a partition ended, and under which limits it ran."""

    outcome: Outcome = Outcome.UNKNOWN
    message: str = ""
    memory_gb: float = 0.0
    minutes: int = 0
    progressed: bool = False  # its element finished other partitions, its training some steps
    alone: bool = True  # no partition of its array was done
    in_vain: bool = False  # the stage has made no progress since it was submitted


@dataclass(frozen=True)
class Limits:
    """Memory and time of a job."""

    memory_gb: float
    minutes: int


@dataclass(frozen=True)
class Decisions:
    """What happens to the missing partitions of a stage that are in no live job."""

    submit: dict[int, Limits] = field(default_factory=dict)
    stops: dict[int, Verdict] = field(default_factory=dict)  # left to a person

    def reasons(self, stage: str, *, numbered: bool) -> list[str]:
        """One line per cause: partitions that stopped for the same reason share a line."""
        causes: dict[Verdict, list[str]] = {}
        for index, stop in sorted(self.stops.items()):
            causes.setdefault(stop, []).append(str(index))
        lines = []
        for stop, indices in causes.items():
            more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
            where = f"{stage} {', '.join(indices[:5])}{more}" if numbered else stage
            lines.append(f"{where}: {stop.outcome}: {stop.message}")
        return lines


def most_limits(job: Job) -> Limits:
    """Find the most that the cluster's partition gives a job; 0: unknown."""
    with contextlib.suppress(SlurmError):
        for facts in read_partitions().values():
            if facts.name == job.partition or (facts.is_default and not job.partition):
                return Limits(facts.memory_mib / 1000, facts.max_minutes)
    return Limits(0.0, 0)


def decide_all(
    histories: Mapping[int, Sequence[Ending]],
    asked: Limits,
    most: Limits,
    *,
    max_attempts: int,
    fail_alike: bool,
) -> Decisions:
    """Decide about the missing partitions of a stage that are in no live job.

    ``histories`` maps a partition to how its attempts since the last ``retry`` ended, oldest first.
    Its limits start at ``asked`` and end at ``most`` (0: unknown). After ``max_attempts``
    submissions without progress it stops, whatever the cause. With ``fail_alike`` a set-up or usage
    error of one partition stops all: the others would meet it too.
    """
    decisions = Decisions()
    for index, history in histories.items():
        decision = decide(history, asked, most)
        in_vain = sum(ending.in_vain for ending in history)
        if isinstance(decision, Verdict):
            decisions.stops[index] = decision
        elif in_vain < max_attempts:
            decisions.submit[index] = decision
        else:
            last, text = history[-1], f"no progress in {in_vain} submissions"
            text = f"{last.message}; {text}" if last.message else text
            decisions.stops[index] = Verdict(last.outcome, text)
    shared = {Outcome.SETUP, Outcome.USAGE}
    if fail_alike and any(stop.outcome in shared for stop in decisions.stops.values()):
        decisions.submit.clear()
    return decisions


def decide(history: Sequence[Ending], asked: Limits, most: Limits) -> Limits | Verdict:
    """Decide about one partition: submit it, or stop with the verdict; see `decide_all`.

    Out of memory: once more with 1.5 times the memory. Out of time: once more with twice the
    minutes, and again while its element makes progress. SIGKILL, cause unknown: once more
    unchanged, then like out of memory. The same exception twice: stop. What every element would
    meet: stop at once.
    """
    if not history:
        return asked
    last = history[-1]
    again = Limits(max(asked.memory_gb, last.memory_gb), max(asked.minutes, last.minutes))
    stop = Verdict(last.outcome, last.message)
    bad_node = last.outcome is Outcome.SETUP and not last.alone
    if last.outcome in _FINAL and not bad_node:
        return stop
    if last.outcome in _KILLS:
        return _after_a_kill(history, again, asked, most)
    if last.outcome is Outcome.TIME:
        return _after_a_timeout(history, again, most)
    same = [e for e in history if (e.outcome, e.message) == (last.outcome, last.message)]
    # Anything else is not its fault: again, as often as the stage makes progress.
    return stop if last.outcome in _FAULTS and len(same) > 1 else again


def _after_a_kill(
    history: Sequence[Ending], again: Limits, asked: Limits, most: Limits
) -> Limits | Verdict:
    kills, last = [e for e in history if e.outcome in _KILLS], history[-1]
    if last.outcome is Outcome.KILLED and len(kills) == 1:
        return again
    more = round(again.memory_gb * 1.5, 3)
    more = min(more, most.memory_gb or more)
    if more <= again.memory_gb or any(e.memory_gb > asked.memory_gb for e in kills):
        return Verdict(last.outcome, f"{last.message} with {again.memory_gb:g} GB")
    return Limits(more, again.minutes)


def _after_a_timeout(history: Sequence[Ending], again: Limits, most: Limits) -> Limits | Verdict:
    more = 2 * again.minutes
    more = min(more, most.minutes or more)
    if not history[-1].progressed:
        text = f"not done in {again.minutes} min, "
        if sum(ending.outcome is Outcome.TIME for ending in history) > 1:
            return Verdict(Outcome.TIME, f"{text}nor with the limit before")
        if more <= again.minutes:
            return Verdict(Outcome.TIME, f"{text}the limit of the partition")
    return Limits(again.memory_gb, more)


def since_progress(history: list[Ending]) -> list[Ending]:
    """Drop the endings before the newest one that made progress: those had another cause."""
    return history[max((n for n, end in enumerate(history) if end.progressed), default=0) :]


@dataclass(frozen=True)
class _Element:
    """One array element, or one job of ranks."""

    entry: Submission
    plan: JobPlan
    number: int
    job: str  # id, ``76_3`` for an element
    ending: Ending  # of its attempts, except for the outcome


@dataclass
class History:
    """How the attempts at the missing partitions of one stage ended.

    What a job did not record itself is classified once, from what SLURM and its log say, and
    recorded beside its own lines: SLURM forgets.
    """

    folder: SlurmFolder
    stage: str
    submissions: Sequence[Submission]  # that count, oldest first
    missing: Collection[int]  # partitions that nothing proves done
    progress: int  # as in `Submission`, now

    def __post_init__(self) -> None:
        self._elements: dict[int, list[_Element]] = {index: [] for index in self.missing}
        self._attempts = functools.cache(self._read_attempts)
        self._accounted = functools.cache(lambda job: accounted([job]))  # with all of its elements
        after = [*(entry.progress for entry in self.submissions), self.progress][1:]
        for entry, progress in zip(self.submissions, after, strict=True):
            plan = self.folder.read_plan(entry.name)
            ending = Ending(
                memory_gb=plan.memory_gb,
                minutes=plan.minutes,
                progressed=progress > entry.progress,
                alone=set(plan.partitions) <= self._elements.keys(),
                in_vain=entry.progress == self.progress,
            )
            for number in range(plan.elements):
                indices = {index for index, _ in plan.element(number)}
                missing = self._elements.keys() & indices
                job = entry.job
                if not plan.ranks:
                    job = f"{entry.job}_{number}"
                    ending = replace(ending, progressed=missing != indices)
                for index in missing:
                    self._elements[index].append(_Element(entry, plan, number, job, ending))

    def _read_attempts(self, partition: int) -> dict[str, Attempt]:
        """Read the attempts at a partition, by name of their job."""
        attempts = read_attempts(self.folder.attempt(self.stage, partition))
        return {attempt.plan: attempt for attempt in attempts}

    def endings(self, queued: Sequence[Queued]) -> dict[int, list[Ending]]:
        """How the attempts at each missing partition that is in no live job ended, oldest first."""
        live = {(job.name, job.element or 0) for job in queued}
        return {
            index: [self._ending(element, index) for element in elements]
            for index, elements in self._elements.items()
            if not any((element.plan.name, element.number) in live for element in elements)
        }

    def _ending(self, element: _Element, partition: int) -> Ending:
        name = element.plan.name
        attempt = self._attempts(partition).get(name) or Attempt(plan=name)
        if not attempt.outcome:
            verdict = self._classify(element, attempt)
            attempt = replace(attempt, outcome=verdict.outcome, message=verdict.message)
            path = self.folder.attempt(self.stage, partition)
            writer = AttemptWriter(path, plan=name, job=element.job)
            writer.end(verdict.outcome, verdict.message, event="classified")
        verdict = classify(attempt)
        return replace(element.ending, outcome=verdict.outcome, message=verdict.message)

    def _classify(self, element: _Element, attempt: Attempt) -> Verdict:
        plan, number = element.plan, element.number
        if plan.ranks:
            # Another rank may have recorded how it ended; rank 0 then ended because of it.
            for path in sorted((self.folder.attempts / self.stage).glob("part-*.jsonl")):
                for other in read_attempts(path):
                    silent = other.outcome in {"", Outcome.DONE, Outcome.PREEMPTED}
                    if other.plan == plan.name and not silent:
                        return Verdict(Outcome(other.outcome), other.message)
            logs = [self.folder.log(plan.name, part) for part in ("rank0", "rankbatch")]
        else:
            begun = any(plan.name in self._attempts(index) for index, _ in plan.element(number))
            if not attempt.starts and (begun or (self.folder.stops / plan.name).exists()):
                return Verdict(Outcome.NOT_STARTED, NOT_STARTED)
            logs = [self.folder.log(plan.name, number)]
        rows = self._accounted(element.entry.job).get(element.job, [])
        if not rows or rows[0].state in {"PENDING", "RUNNING"}:
            # The accounting is a second late, or off.
            details = shown(element.job)
            rows = [*details, *rows[1:]] if details else rows
        return classify(attempt, rows, "".join(map(log_tail, logs)))
