"""The jobs of a run: names, programs, logs and environment; and how each is submitted just once.

A line with a unique name is recorded before sbatch, one with the id after it. When sbatch fails, or
a driver died between the two, the name is searched for before anything is tried again: a busy
controller may have accepted the job although sbatch gave up. If all of this should ever fail, the
elements themselves refuse: the first job that claims a plan owns it (`slurm.store.layout`).
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dinoforge
from dinoforge.files import write_bytes
from dinoforge.slurm.cluster.commands import SlurmUnavailableError, accounted_name, queue
from dinoforge.slurm.cluster.executor import JobRefusedError, Request, sbatch_text, send
from dinoforge.slurm.cluster.limits import max_array_size, submit_limit
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.retries import Limits
from dinoforge.slurm.store.events import Submission
from dinoforge.slurm.store.layout import JOB_PREFIX, JobPlan, Launch, SlurmFolder
from dinoforge.slurm.store.lease import Lease

__all__ = ["Jobs", "StageWork", "Submitter"]

_log = logging.getLogger(__name__)

# A controller that wakes up answers queries and accepts waiting jobs in any order: a name that is
# absent for so long, answer after answer, was never accepted.
_ABSENT_S = 12.0
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """What is missing of one stage, and what a job of it requests."""

    stage: str
    job: Job
    missing: Mapping[int, dict[str, Any]]  # partition -> payload
    progress: int = 0  # as in `Submission`
    ranks: bool = False  # its one partition is a job of N ranks
    prepare: Callable[[], None] = lambda: None  # makes the stage's folder ready
    # of a stage of a pipeline, as in `JobPlan`
    pipeline: str = ""
    stage_fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def plans(self, partitions: Mapping[int, Limits], size: int) -> Iterator[JobPlan]:
        """Split partitions into arrays of at most ``size`` elements, each under one set of limits.

        The plans have no names yet.
        """
        step = size * self.job.partitions_per_element
        for limits in dict.fromkeys(partitions.values()):
            indices = [index for index, asked in partitions.items() if asked == limits]
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


@dataclass(frozen=True)
class Jobs:
    """Makes the job requests of one run."""

    folder: SlurmFolder
    launch: Launch
    profile: Profile

    def name(self, stage: str, chunk: int | str) -> str:
        """Make a name that no other job has: ``df-RUN-STAGE-CHUNK-NONCE``."""
        return f"{self.launch.job_prefix}{stage}-{chunk}-{secrets.token_hex(4)}"

    def array(self, name: str, job: Job, elements: int) -> Request:
        """Request an array: each element is one process with its part of a plan."""
        request = self._request(name, job, "worker", name)
        return replace(request, log=self._log(name, "%a"), elements=elements)

    def ranks(self, name: str, job: Job) -> Request:
        """Request one process per task, over all nodes of the job."""
        return replace(
            self._request(name, job, "worker", name),
            log=self._log(name, "rank%t"),
            ranks=True,
            signal_before_s=self.profile.signal_before_s,
        )

    def gate(self, name: str, after: Sequence[str]) -> Request:
        """Advance the run once all of ``after`` have ended, however they did."""
        request = self._request(name, self.profile.job("gate", "gate"), "gate")
        return replace(request, after=tuple(after))

    def probe(self, name: str, job: Job) -> Request:
        """Check on a node of this kind that it sees the run, and has packages and device."""
        return self._request(name, job, "probe", name, job.device)

    def _log(self, name: str, part: str = "") -> str:
        path = self.folder.log(name, part)
        return f"{path.parent}".replace("%", "%%") + f"/{path.name}"

    def _request(self, name: str, job: Job, program: str, *arguments: str) -> Request:
        # Its code first, then what the submitter could import.
        code = self.launch.snapshot or str(Path(dinoforge.__file__).resolve().parent.parent)
        path = [code, *(entry for entry in self.launch.python_path if entry != code)]
        return Request(
            name=name,
            job=job,
            command=["-m", f"dinoforge.slurm.node.{program}", str(self.folder.run), *arguments],
            log=self._log(name),
            environment={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"},
            folder=self.launch.folder,
            python=self.launch.python,
        )


@dataclass(frozen=True)
class Submitter:
    """Submits the jobs of one run; made by the holder of the lease."""

    jobs: Jobs
    lease: Lease

    def submit_work(
        self, work: StageWork, partitions: Mapping[int, Limits], *, may_wait: bool
    ) -> set[str]:
        """Submit array after array until the queue is full; the next gate submits the rest.

        Returns the ids of the jobs. ``may_wait``: the queue may be full, as jobs of the run are in
        it, whose end brings another call. Raises a `JobRefusedError` if SLURM refuses for another
        reason than a full queue, or accepts nothing at all.
        """
        if not partitions:
            return set()
        submitted: set[str] = set()
        count, room = 0, self._room()
        for plan in work.plans(partitions, max_array_size()):
            part = plan.first(room)
            while part.elements:
                try:
                    submitted.add(self._submit_plan(part, work))
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

    def _room(self) -> int:
        """Elements that may join the queue; one place is kept for the gate."""
        own_limit = self.jobs.profile.max_queued
        limit = own_limit or submit_limit()
        if not limit:
            return 1 << 31
        return max(limit - len(queue(JOB_PREFIX if own_limit else "")) - 1, 1)

    def _submit_plan(self, plan: JobPlan, work: StageWork) -> str:
        name = self.jobs.name(plan.stage, plan.partitions[0])
        self.jobs.folder.write_plan(replace(plan, name=name))
        job = replace(work.job, memory_gb=plan.memory_gb, minutes=plan.minutes)
        entry = Submission(
            name=name,
            kind="ranks" if plan.ranks else "array",
            stage=plan.stage,
            elements=plan.elements,
            progress=work.progress,
        )
        if plan.ranks:
            return self.submit(self.jobs.ranks(name, job), entry)
        return self.submit(self.jobs.array(name, job, plan.elements), entry)

    def submit(self, request: Request, entry: Submission) -> str:
        """Submit a job; returns its id.

        Raises a `JobRefusedError` with SLURM's reason (no such job is in the queue), or a
        `SlurmUnavailableError` if the controller stayed silent: the name is recorded, the next
        driver searches for it.
        """
        script = self.jobs.folder.scripts / f"{request.name}.sh"
        write_bytes(script, os.fsencode(sbatch_text(request)))
        self.jobs.folder.logs.mkdir(parents=True, exist_ok=True)
        submissions = self.jobs.folder.submissions
        self.lease.check()
        submissions.intent(entry)
        for _ in range(_TRIES):
            try:
                job = send(script)
            except JobRefusedError as error:
                submissions.outcome("refused", request.name, text=error.reason)
                raise
            except SlurmUnavailableError as error:
                _log.warning("sbatch: %s; searching for %s", error, request.name)
                job = self._find(request.name)
            if job:
                submissions.outcome("submitted", request.name, job=job)
                return job
        submissions.outcome("absent", request.name)
        raise SlurmUnavailableError(f"sbatch failed {_TRIES} times for {request.name}")

    def settle(self) -> None:
        """Find out what became of intents that a killed driver left open."""
        submissions = self.jobs.folder.submissions
        for entry in submissions.read():
            if entry.outcome == "intent":
                job = self._find(entry.name)
                submissions.outcome("submitted" if job else "absent", entry.name, job=job)

    def _find(self, name: str) -> str:
        """Search for a job by its unique name; "" when it is certainly not there."""
        deadline = time.monotonic() + _ABSENT_S
        while True:
            queued = next((job.job for job in queue(name)), None)
            job = self.jobs.folder.owner(name) or queued or accounted_name(name)
            if job or time.monotonic() > deadline:
                self.lease.check()
                return job or ""
            time.sleep(1.0)
