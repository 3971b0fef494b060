"""From partitions to arrays that the cluster accepts, several partitions per element."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dinoforge.slurm.cluster.commands import queue
from dinoforge.slurm.cluster.executor import JobRefusedError
from dinoforge.slurm.cluster.limits import max_array_size, submit_limit
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.profile import Job
from dinoforge.slurm.retries import Submit
from dinoforge.slurm.store.layout import JOB_PREFIX
from dinoforge.slurm.store.plans import JobPlan, write_plan
from dinoforge.slurm.store.submissions import Submission
from dinoforge.slurm.submission import Submitter

__all__ = ["StageWork", "submit_work"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """What is missing of one stage, and what a job of it asks for."""

    stage: str
    job: Job
    missing: Mapping[int, dict[str, Any]]  # partition -> payload
    progress: int = 0  # as in `Submission`
    ranks: bool = False  # its one partition is a job of N ranks
    # of a stage of a pipeline, as in `JobPlan`
    pipeline: str = ""
    stage_fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def plans(self, partitions: Mapping[int, Submit], size: int) -> Iterator[JobPlan]:
        """Split partitions into arrays of at most ``size`` elements, each under one set of limits.

        The plans have no names yet.
        """
        groups: dict[Submit, list[int]] = {}
        for index, limits in partitions.items():
            groups.setdefault(limits, []).append(index)
        step = size * self.job.partitions_per_element
        for limits, indices in groups.items():
            for start in range(0, len(indices), step):
                part = indices[start : start + step]
                yield JobPlan(
                    stage=self.stage,
                    ranks=self.ranks,
                    per_element=self.job.partitions_per_element,
                    partitions=part,
                    payloads=[self.missing[index] for index in part],
                    memory_gb=limits.memory_gb,
                    minutes=limits.minutes,
                    cpus=self.job.cpus_per_task,
                    gpus=self.job.gpus_per_node,
                    pipeline=self.pipeline,
                    stage_fingerprint=self.stage_fingerprint,
                    config=self.config,
                )


def submit_work(
    jobs: Jobs,
    submitter: Submitter,
    work: StageWork,
    partitions: Mapping[int, Submit],
    *,
    may_wait: bool,
) -> set[str]:
    """Submit array after array until the queue is full; the next gate submits the rest.

    Parameters
    ----------
    partitions : mapping
        Partition -> its limits.
    may_wait : bool
        The queue may be full: jobs of the run are in it, whose end brings another call.

    Returns
    -------
    set of str
        Ids of the jobs.

    Raises
    ------
    JobRefusedError
        If SLURM refuses for another reason than a full queue, or accepts nothing at all.
    """
    if not partitions:
        return set()
    submitted: set[str] = set()
    count, room = 0, _room(jobs)
    for plan in work.plans(partitions, max_array_size()):
        part = plan.first(room)
        while part.elements:
            try:
                submitted.add(_submit(jobs, submitter, work, part))
                break
            except JobRefusedError as error:
                halved = part.elements // 2
                if not error.is_queue_full or not (halved or submitted or may_wait):
                    raise
                part = plan.first(halved)
        room -= part.elements
        count += len(part.partitions)
        if part.elements < plan.elements:
            _log.info("the queue is full: the rest follows when jobs have ended")
            break
    ids = ", ".join(sorted(submitted))
    _log.info("%s: %d of %d partitions submitted: %s", work.stage, count, len(partitions), ids)
    return submitted


def _room(jobs: Jobs) -> int:
    """Elements that may join the queue; one place is kept for the gate."""
    own_limit = jobs.profile.max_queued
    limit = own_limit or submit_limit()
    if not limit:
        return 1 << 31
    return max(limit - len(queue(JOB_PREFIX if own_limit else "")) - 1, 1)


def _submit(jobs: Jobs, submitter: Submitter, work: StageWork, plan: JobPlan) -> str:
    name = jobs.name(plan.stage, plan.partitions[0])
    write_plan(jobs.folder.plan(name), replace(plan, name=name))
    job = replace(work.job, memory_gb=plan.memory_gb, minutes=plan.minutes)
    request = jobs.ranks(name, job) if plan.ranks else jobs.array(name, job, plan.elements)
    entry = Submission(
        name=name,
        kind="ranks" if plan.ranks else "array",
        stage=plan.stage,
        elements=plan.elements,
        progress=work.progress,
    )
    return submitter.submit(request, entry)
