"""What to do about a partition that is not done: a pure function of its history."""

from collections.abc import Sequence
from dataclasses import dataclass

from dinoforge.slurm.failures import Outcome

__all__ = ["Again", "Ending", "Limits", "Stop", "decide"]

MORE_MEMORY = 1.5
MORE_TIME = 2

# Nobody's fault here: again, as often as the stage makes progress.
_FREE = {
    Outcome.INFRASTRUCTURE,
    Outcome.PREEMPTED,
    Outcome.NOT_STARTED,
    Outcome.UNKNOWN,
    Outcome.CRASH,
}
# Every element fails alike, or a person has to act.
_FINAL = {
    Outcome.SETUP,
    Outcome.USAGE,
    Outcome.USER,
    Outcome.UPSTREAM,
    Outcome.DEVICE_MEMORY,
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt at a partition ended, and under which limits it ran."""

    outcome: Outcome
    message: str = ""
    memory_gb: float = 0.0
    minutes: int = 0
    progressed: bool = False  # its element finished other partitions before
    alone: bool = True  # nothing else of its array was done either


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the profile asks for, and the most that the cluster's partition gives; 0: not known."""

    memory_gb: float
    minutes: int
    most_memory_gb: float = 0.0
    most_minutes: int = 0


@dataclass(frozen=True)
class Again:
    """Submit it again, under these limits."""

    memory_gb: float
    minutes: int


@dataclass(frozen=True)
class Stop:
    """Do not submit it again by itself."""

    outcome: Outcome
    message: str


def decide(history: Sequence[Ending], limits: Limits) -> Again | Stop:
    """Say what happens to a partition that no marker proves.

    Parameters
    ----------
    history : sequence of Ending
        Its attempts since the last ``retry``, oldest first; none: it is new.
    limits : Limits
        Where memory and minutes start and end.

    Returns
    -------
    Again or Stop
        Memory: once more with half as much again. Time: once more with twice the minutes, and
        again while its element makes progress. Killed by nobody known: once more as it is, then as
        memory. The same exception twice: stop. What every element would meet: stop at once.
    """
    again = Again(limits.memory_gb, limits.minutes)
    if not history:
        return again
    last = history[-1]
    again = Again(max(limits.memory_gb, last.memory_gb), max(limits.minutes, last.minutes))
    bad_node = last.outcome is Outcome.SETUP and not last.alone
    if last.outcome in _FINAL and not bad_node:
        return Stop(last.outcome, last.message)
    if last.outcome in _FREE:
        return again
    if last.outcome in {Outcome.MEMORY, Outcome.KILLED}:
        return _after_a_kill(history, again, limits)
    if last.outcome is Outcome.TIME:
        return _after_time(history, again, limits)
    alike = [ending for ending in history if _text(ending) == _text(last)]
    return Stop(last.outcome, last.message) if len(alike) > 1 else again


def _text(ending: Ending) -> tuple[Outcome, str]:
    return ending.outcome, ending.message


def _after_a_kill(history: Sequence[Ending], again: Again, limits: Limits) -> Again | Stop:
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
    return Again(more, again.minutes)


def _after_time(history: Sequence[Ending], again: Again, limits: Limits) -> Again | Stop:
    times = [ending for ending in history if ending.outcome is Outcome.TIME]
    last = times[-1]
    more = again.minutes * MORE_TIME
    if limits.most_minutes:
        more = min(more, limits.most_minutes)
    if len(times) > 1 and not last.progressed:
        return Stop(Outcome.TIME, f"not done in {again.minutes} min, nor in what it had before")
    if more <= again.minutes and not last.progressed:
        return Stop(Outcome.TIME, f"not done in {again.minutes} min, the most that there is")
    return Again(again.memory_gb, more)
