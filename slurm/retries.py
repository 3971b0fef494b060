"""What to do about partitions that are not done: a pure function of how their attempts ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dinoforge.slurm.cluster.commands import SlurmError
from dinoforge.slurm.cluster.limits import read_partitions
from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.profile import Job

__all__ = [
    "Decisions",
    "Ending",
    "Limits",
    "Stop",
    "Submit",
    "decide",
    "decide_all",
    "limits_of",
    "since_progress",
]

MORE_MEMORY = 1.5
MORE_TIME = 2

# Not the fault of the partition: again, as often as the stage makes progress.
_FREE = {
    Outcome.INFRASTRUCTURE,
    Outcome.PREEMPTED,
    Outcome.NOT_STARTED,
    Outcome.UNKNOWN,
    Outcome.CRASH,
}
# Every element fails alike, or a person has to act.
_FINAL = {Outcome.SETUP, Outcome.USAGE, Outcome.USER, Outcome.DEVICE_MEMORY, Outcome.NO_PROGRESS}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt at a partition ended, and under which limits it ran."""

    outcome: Outcome
    message: str = ""
    memory_gb: float = 0.0
    minutes: int = 0
    progressed: bool = False  # its element finished other partitions, its training some steps
    alone: bool = True  # no partition of its array was done
    in_vain: bool = False  # the stage has made no progress since it was submitted


@dataclass(frozen=True)
class Limits:
    """What the profile asks for, and the most that the cluster's partition gives; 0: unknown."""

    memory_gb: float
    minutes: int
    most_memory_gb: float = 0.0
    most_minutes: int = 0


@dataclass(frozen=True)
class Submit:
    """Submit it, under these limits."""

    memory_gb: float
    minutes: int


@dataclass(frozen=True)
class Stop:
    """Leave it to a person."""

    outcome: Outcome
    message: str


@dataclass(frozen=True)
class Decisions:
    """What happens to the missing partitions of a stage that are in no live job."""

    submit: dict[int, Submit] = field(default_factory=dict)
    stops: dict[int, Stop] = field(default_factory=dict)

    def reasons(self, stage: str, *, numbered: bool) -> list[str]:
        """One line per cause: partitions that stopped for the same reason share a line."""
        causes: dict[Stop, list[int]] = {}
        for index, stop in sorted(self.stops.items()):
            causes.setdefault(stop, []).append(index)
        lines = []
        for stop, indices in causes.items():
            first = ", ".join(str(index) for index in indices[:5])
            more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
            where = f"{stage} {first}{more}" if numbered else stage
            lines.append(f"{where}: {stop.outcome}: {stop.message}")
        return lines


def limits_of(job: Job) -> Limits:
    """Limits of a job: they start at the profile's and end at those of the cluster's partition."""
    try:
        partitions = read_partitions()
    except SlurmError:
        partitions = {}
    default = next((facts for facts in partitions.values() if facts.is_default), None)
    facts = partitions.get(job.partition) if job.partition else default
    most_gb, most_minutes = (facts.memory_mib / 1000, facts.max_minutes) if facts else (0.0, 0)
    return Limits(job.memory_gb, job.minutes, most_gb, most_minutes)


def decide_all(
    histories: Mapping[int, Sequence[Ending]],
    limits: Limits,
    *,
    max_attempts: int,
    fail_alike: bool,
) -> Decisions:
    """Decide about the missing partitions of a stage that are in no live job.

    Parameters
    ----------
    histories : mapping
        Partition -> how its attempts since the last ``retry`` ended, oldest first.
    limits : Limits
        Where memory and minutes start and end.
    max_attempts : int
        Submissions without progress after which a partition stops, whatever the cause.
    fail_alike : bool
        A set-up or usage error of one partition stops all: the others would meet the same.
    """
    decisions = Decisions()
    for index, history in histories.items():
        decision = decide(history, limits)
        in_vain = sum(ending.in_vain for ending in history)
        if isinstance(decision, Submit) and in_vain >= max_attempts:
            text = f"no progress in {in_vain} submissions"
            last = history[-1]
            text = f"{last.message}; {text}" if last.message else text
            decision = Stop(last.outcome, text)
        if isinstance(decision, Submit):
            decisions.submit[index] = decision
        else:
            decisions.stops[index] = decision
    shared = {Outcome.SETUP, Outcome.USAGE}
    if fail_alike and any(stop.outcome in shared for stop in decisions.stops.values()):
        decisions.submit.clear()
    return decisions


def decide(history: Sequence[Ending], limits: Limits) -> Submit | Stop:
    """Decide about one partition; see `decide_all`.

    Returns
    -------
    Submit or Stop
        Out of memory: once more with 1.5 times the memory. Out of time: once more with twice the
        minutes, and again while its element makes progress. SIGKILL, cause unknown: once more
        unchanged, then like out of memory. The same exception twice: stop. What every element would
        meet: stop at once.
    """
    if not history:
        return Submit(limits.memory_gb, limits.minutes)
    last = history[-1]
    again = Submit(max(limits.memory_gb, last.memory_gb), max(limits.minutes, last.minutes))
    bad_node = last.outcome is Outcome.SETUP and not last.alone
    if last.outcome in _FINAL and not bad_node:
        return Stop(last.outcome, last.message)
    if last.outcome in _FREE:
        return again
    if last.outcome in {Outcome.MEMORY, Outcome.KILLED}:
        return _after_a_kill(history, again, limits)
    if last.outcome is Outcome.TIME:
        return _after_a_timeout(history, again, limits)
    same = [e for e in history if (e.outcome, e.message) == (last.outcome, last.message)]
    return Stop(last.outcome, last.message) if len(same) > 1 else again


def _after_a_kill(history: Sequence[Ending], again: Submit, limits: Limits) -> Submit | Stop:
    kills = [e for e in history if e.outcome in {Outcome.MEMORY, Outcome.KILLED}]
    last = kills[-1]
    if last.outcome is Outcome.KILLED and len(kills) == 1:
        return again
    raised = any(ending.memory_gb > limits.memory_gb for ending in kills)
    more = round(again.memory_gb * MORE_MEMORY, 3)
    if limits.most_memory_gb:
        more = min(more, limits.most_memory_gb)
    if raised or more <= again.memory_gb:
        return Stop(last.outcome, f"{last.message} with {again.memory_gb:g} GB")
    return Submit(more, again.minutes)


def _after_a_timeout(history: Sequence[Ending], again: Submit, limits: Limits) -> Submit | Stop:
    progressed = history[-1].progressed
    more = again.minutes * MORE_TIME
    if limits.most_minutes:
        more = min(more, limits.most_minutes)
    if not progressed and sum(ending.outcome is Outcome.TIME for ending in history) > 1:
        return Stop(Outcome.TIME, f"not done in {again.minutes} min, nor with the limit before")
    if not progressed and more <= again.minutes:
        return Stop(Outcome.TIME, f"not done in {again.minutes} min, the limit of the partition")
    return Submit(again.memory_gb, more)


def since_progress(history: list[Ending]) -> list[Ending]:
    """Drop the endings before the newest one that made progress: those had another cause."""
    last = max((n for n, ending in enumerate(history) if ending.progressed), default=0)
    return history[last:]
