"""Partitions to arrays: chunks that the cluster takes, several partitions an element, one gate."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dinoforge.config import to_plain
from dinoforge.slurm.cluster.commands import queue
from dinoforge.slurm.cluster.executor import JobRefusedError
from dinoforge.slurm.cluster.limits import submit_limit
from dinoforge.slurm.decisions import Again
from dinoforge.slurm.profile import Job
from dinoforge.slurm.requests import Requests
from dinoforge.slurm.store.layout import JOB_PREFIX
from dinoforge.slurm.store.ledger import Submission
from dinoforge.slurm.store.plans import ArrayPlan, write_plan
from dinoforge.slurm.submission import Submitter
from dinoforge.stages import StagePlan, Task

__all__ = [
    "Chunk",
    "chunks",
    "submit_arrays",
    "submit_gate",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """The tasks of one array, under one set of limits."""

    number: int
    offset: int  # elements of the same turn before it
    job: Job
    tasks: Sequence[Task]

    @property
    def elements(self) -> int:
        """Size of the array."""
        return -(-len(self.tasks) // self.job.partitions_per_element)


def chunks(job: Job, work: Sequence[tuple[Task, Again]], size: int) -> Iterator[Chunk]:
    """Cut work into arrays of at most ``size`` elements; tasks of equal limits stay together."""
    groups: dict[Again, list[Task]] = {}
    for task, again in work:
        groups.setdefault(again, []).append(task)
    number = offset = 0
    for again, tasks in groups.items():
        sized = replace(job, memory_gb=again.memory_gb, minutes=again.minutes)
        step = size * job.partitions_per_element
        for start in range(0, len(tasks), step):
            chunk = Chunk(number, offset, sized, tasks[start : start + step])
            yield chunk
            number, offset = number + 1, offset + chunk.elements


def submit_arrays(
    requests: Requests,
    submitter: Submitter,
    plan: StagePlan,
    config: Any,
    work: Sequence[Chunk],
    done: int,
) -> dict[str, Chunk]:
    """Submit chunk after chunk until the queue is full; the next gate submits the rest.

    Parameters
    ----------
    requests, submitter
        How jobs of this run look, and who sends them.
    plan : StagePlan
        The stage.
    config : dataclass
        The resolved recipe.
    work : sequence of Chunk
        What is to be submitted, in order.
    done : int
        Partitions of the stage that are done, for the ledger.

    Returns
    -------
    dict
        Id -> chunk, of what was taken; a chunk may be smaller than it was.

    Raises
    ------
    JobRefusedError
        If SLURM says no for another reason than a full queue, or takes nothing at all.
    """
    turn = 1 + max((entry.round for entry in submitter.ledger.submissions()), default=0)
    taken: dict[str, Chunk] = {}
    room = _room(requests)
    for chunk in work:
        part = _first(chunk, room)
        while part.elements:
            try:
                taken[_submit(requests, submitter, plan, config, (part, done, turn))] = part
                break
            except JobRefusedError as error:
                halved = part.elements // 2
                if not error.is_queue_full or (not halved and not taken):
                    raise
                part = _first(part, halved)
        room -= part.elements
        if part.elements < chunk.elements:
            _log.info("the queue is full: the rest follows when these have ended")
            break
    return taken


def _first(chunk: Chunk, elements: int) -> Chunk:
    return replace(chunk, tasks=chunk.tasks[: elements * chunk.job.partitions_per_element])


def _room(requests: Requests) -> int:
    """Elements that may join the queue, one place kept for the gate."""
    own = requests.profile.max_queued
    limit = own or submit_limit()
    if not limit:
        return 1 << 31
    return max(limit - len(queue(JOB_PREFIX if own else "")) - 1, 1)


def _submit(
    requests: Requests,
    submitter: Submitter,
    plan: StagePlan,
    config: Any,
    what: tuple[Chunk, int, int],
) -> str:
    chunk, done, turn = what
    name = requests.name(plan.stage.name, chunk.number)
    array = ArrayPlan(
        name=name,
        pipeline=requests.launch.pipeline,
        stage=plan.stage.name,
        stage_fingerprint=plan.stage_fingerprint,
        config=to_plain(config),
        offset=chunk.offset,
        per_element=chunk.job.partitions_per_element,
        partitions=[task.index for task in chunk.tasks],
        payloads=[task.payload for task in chunk.tasks],
        memory_gb=chunk.job.memory_gb,
        minutes=chunk.job.minutes,
        cpus=chunk.job.cpus_per_task,
        gpus=chunk.job.gpus_per_node,
    )
    write_plan(requests.folder.plan(name), array)
    entry = Submission(
        name=name,
        kind="array",
        stage=plan.stage.name,
        elements=array.elements,
        done=done,
        round=turn,
    )
    return submitter.submit(requests.array(name, chunk.job, array.elements), entry)


def submit_gate(requests: Requests, submitter: Submitter, stage: str, after: Sequence[str]) -> None:
    """Submit the gate behind all arrays; without it the run waits for ``dinoforge retry``."""
    name = requests.name(stage, "gate")
    try:
        entry = Submission(name=name, kind="gate", stage=stage)
        submitter.submit(requests.gate(name, after), entry)
    except JobRefusedError as error:
        _log.warning(
            "SLURM refused the gate (%s): when the arrays have ended, dinoforge retry %s",
            error.reason,
            requests.folder.run,
        )
