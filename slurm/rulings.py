"""From the histories of all missing partitions of a stage to: these again, those not, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dinoforge.errors import DinoforgeError
from dinoforge.slurm.cluster.limits import read_partitions
from dinoforge.slurm.decisions import Again, Ending, Limits, Stop, decide
from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.profile import Job
from dinoforge.stages import Task

__all__ = ["Rulings", "limits_of", "rule"]


@dataclass(frozen=True)
class Rulings:
    """What happens to the missing partitions of a stage that no job has."""

    again: list[tuple[Task, Again]]
    stops: dict[int, Stop]

    def reasons(self, stage: str) -> list[str]:
        """One line a cause: partitions that stopped alike are named together."""
        causes: dict[Stop, list[int]] = {}
        for index, stop in sorted(self.stops.items()):
            causes.setdefault(stop, []).append(index)
        return [f"{_named(stage, where)}: {s.outcome}: {s.message}" for s, where in causes.items()]


def _named(stage: str, indices: Sequence[int]) -> str:
    few = ", ".join(str(index) for index in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"{stage} {few}{more}"


def rule(
    tasks: Sequence[Task],
    histories: Mapping[int, Sequence[Ending]],
    limits: Limits,
    *,
    in_vain: int,
) -> Rulings:
    """Decide about partitions.

    Parameters
    ----------
    tasks : sequence of Task
        Missing, and of no job that waits or runs.
    histories : mapping
        Index -> how its attempts ended.
    limits : Limits
        Where memory and minutes start and end.
    in_vain : int
        So many submissions without one partition more that it is enough; 0: not yet.
    """
    again: list[tuple[Task, Again]] = []
    stops: dict[int, Stop] = {}
    for task in tasks:
        history = histories[task.index]
        found = decide(history, limits)
        if isinstance(found, Stop):
            stops[task.index] = found
        elif in_vain:
            stops[task.index] = _give_up(history, in_vain)
        else:
            again.append((task, found))
    shared = {Outcome.SETUP, Outcome.USAGE}
    if any(stop.outcome in shared for stop in stops.values()):
        again = []  # the others would meet the same
    return Rulings(again, stops)


def _give_up(history: Sequence[Ending], rounds: int) -> Stop:
    text = f"no partition was done in {rounds} submissions"
    if not history:
        return Stop(Outcome.UNKNOWN, text)
    last = history[-1]
    return Stop(last.outcome, f"{last.message}; {text}" if last.message else text)


def limits_of(job: Job) -> Limits:
    """Where memory and minutes start, by the profile, and end, by the cluster."""
    try:
        partitions = read_partitions()
    except DinoforgeError:
        partitions = {}
    default = next((facts for facts in partitions.values() if facts.is_default), None)
    facts = partitions.get(job.partition) if job.partition else default
    return Limits(
        memory_gb=job.memory_gb,
        minutes=job.minutes,
        most_memory_gb=facts.memory_mib / 1000 if facts is not None else 0.0,
        most_minutes=facts.max_minutes if facts is not None else 0,
    )
