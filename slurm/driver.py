"""The driver: one function, `advance`, that takes a run one step further, wherever it is.

The submitting command calls it first, gates call it next, ``dinoforge retry`` calls it by hand. It
reads markers and never trusts a scheduler or an exit code, so anybody may call it, at any time,
twice.

A pipeline has stages of partitions, one after the other. A training (or an evaluation) is a stage
with one partition of N ranks. Evaluations of a training's exports are stages whose plan grows: one
partition per exported step. They are submitted while the training runs, and again behind it.
"""

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinoforge.config import Config, load_config, to_plain
from dinoforge.config.paths import quote_path
from dinoforge.errors import DinoforgeError
from dinoforge.pages.formatting import counted
from dinoforge.runs import record_end, succeeded
from dinoforge.slurm.cluster.commands import Queued, SlurmUnavailableError, queue
from dinoforge.slurm.cluster.executor import JobRefusedError
from dinoforge.slurm.jobs import Jobs, StageWork, Submitter
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.retries import (
    Decisions,
    History,
    Limits,
    decide_all,
    most_limits,
    since_progress,
)
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.events import Submission
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.lease import Lease, LeaseBusyError, hold_lease
from dinoforge.stages import (
    find_pipeline,
    make_inputs,
    plan_in_order,
    remove_temporary_files,
    stage_device,
)
from dinoforge.steps import is_trained, reached_step

__all__ = ["Driver", "advance", "stage_works", "submit_evaluations"]

_log = logging.getLogger(__name__)


def advance(run: Path, *, on_node: bool = False, wait_s: float = 600.0) -> State:
    """Take a run, which was submitted, one step further; the state is also written to its folder.

    For each stage in order: nothing missing, go on; something missing, submit it and a gate that
    calls this function again. After the last stage: finish. Where nodes may not submit, a call
    ``on_node`` (inside a job) only records what to type.

    Raises a `UsageError` with what the user can fix (SLURM refused a job, the recipe leaves nothing
    to do), a `SlurmUnavailableError` if SLURM did not answer (nothing is lost, call it again), or a
    `LeaseBusyError` if another driver was at work for ``wait_s``.
    """
    folder = SlurmFolder(run)
    with hold_lease(folder.lease, wait_s=wait_s) as lease:
        if folder.is_cancelled():
            return folder.read_state() or State(state="cancelled")
        try:
            state = Driver.of(folder, lease, on_node=on_node).advance()
        except (SlurmUnavailableError, LeaseBusyError):
            raise
        except Exception as error:
            text = str(error) if isinstance(error, DinoforgeError) else repr(error)
            do = f"fix it, then dinoforge retry {quote_path(run)}"
            folder.write_state(State(state="stopped", why=text.splitlines(), do=do))
            raise
        folder.write_state(state)
        return state


def submit_evaluations(run: Path, *, wait_s: float) -> None:
    """Submit the evaluations that are due beside a training; called inside its job.

    Raises a `DinoforgeError` if another driver is at work, or SLURM does not answer.
    """
    folder = SlurmFolder(run)
    with hold_lease(folder.lease, wait_s=wait_s) as lease:
        if not folder.is_cancelled():
            Driver.of(folder, lease, on_node=True).submit_beside()


def stage_works(profile: Profile, path: str, run: Path, config: Config) -> Iterator[StageWork]:
    """Plan the stages of the pipeline ``path`` in order, like `plan_in_order`."""
    pipeline = find_pipeline(path)
    reopen = functools.partial(pipeline.reopen, run)
    inputs = make_inputs(pipeline.name, pipeline.stages, run, config)
    for plan, missing in plan_in_order(pipeline.stages, inputs):
        yield StageWork(
            stage=plan.stage.name,
            job=profile.job(plan.stage.name, stage_device(plan.stage, config)),
            missing={task.index: task.payload for task in missing},
            progress=len(plan.tasks) - len(missing),
            prepare=functools.partial(plan.prepare, missing, reopen),
            pipeline=path,
            stage_fingerprint=plan.stage_fingerprint,
            config=to_plain(config),
        )


@dataclass(frozen=True, kw_only=True)
class Driver:
    """One turn of the holder of the lease; made by `Driver.of`."""

    jobs: Jobs
    submitter: Submitter
    submissions: Sequence[Submission]
    queued: Sequence[Queued]
    on_node: bool

    @classmethod
    def of(cls, folder: SlurmFolder, lease: Lease, *, on_node: bool) -> "Driver":
        """Read the state of a run."""
        jobs = Jobs(folder, folder.read_launch(), load_config(Profile, folder.profile))
        submitter = Submitter(jobs, lease)
        submitter.settle()
        submissions = folder.submissions.read()
        gates = {entry.name for entry in submissions if entry.kind == "gate"}
        # The gate that this process may run in does not count. The queue is read before any marker:
        # what ends in between is then done.
        own = os.environ.get("SLURM_JOB_ID")
        queued = [j for j in queue(jobs.launch.job_prefix) if j.job != own or j.name not in gates]
        return cls(
            jobs=jobs, submitter=submitter, submissions=submissions, queued=queued, on_node=on_node
        )

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.jobs.folder.run

    def advance(self) -> State:
        """See `advance`."""
        for works in self._pipeline() if self.jobs.launch.pipeline else self._command():
            if any(work.missing for work in works):
                state = self._bring_on(works)
                if works[0].ranks and state.state == "running":
                    self.submit_beside()
                return state
            for work in works:
                work.prepare()
        if not succeeded(self.run):
            record_end(self.run, 0)
        _log.info("all stages are done")
        return State(state="finished")

    def _pipeline(self) -> Iterator[list[StageWork]]:
        """Yield the stages of a pipeline; finish it after the last."""
        run, path = self.run, self.jobs.launch.pipeline
        if not self.queued:
            remove_temporary_files(run, self.jobs.folder.stage_folders())
        pipeline = find_pipeline(path)
        config = load_config(pipeline.config, run / "config.yaml")
        for work in stage_works(self.jobs.profile, path, run, config):
            yield [work]
        pipeline.finish(run, config)

    def _command(self) -> Iterator[list[StageWork]]:
        """Yield a training, then the evaluations of its exports; or a single evaluation."""
        launch = self.jobs.launch
        work = StageWork(
            stage=launch.command,
            job=self.jobs.profile.job(launch.command, launch.device),
            missing={0: {}},
            progress=reached_step(self.run),
            ranks=True,
        )
        done = is_trained(self.run) if launch.command == "train" else succeeded(self.run)
        if not done or self._live([work]):
            yield [work]
        yield self.evaluations()

    def evaluations(self) -> list[StageWork]:
        """List the evaluations that are missing of a training's exports."""
        works = []
        for evaluation in [Evaluation(self.run, name) for name in self.jobs.launch.evaluations]:
            missing = {step: {"recipe": evaluation.name} for step in evaluation.missing()}
            if missing:
                job = self.jobs.profile.job("evaluate", evaluation.device)
                works.append(StageWork(stage=evaluation.stage, job=job, missing=missing))
        return works

    def submit_beside(self) -> None:
        """Submit evaluations while the training runs, which a refusal does not disturb."""
        if self.on_node and not self.jobs.profile.nodes_may_submit:
            return
        for work in self.evaluations():
            try:
                self.submitter.submit_work(work, self.decide(work).submit, may_wait=True)
            except JobRefusedError as error:
                _log.warning("%s", error)

    def _bring_on(self, works: Sequence[StageWork]) -> State:
        """Submit, wait or stop, by what is known of the missing partitions."""
        stage, live = works[0].stage, self._live(works)
        decisions = [(work, self.decide(work)) for work in works]
        why = [
            line
            for work, decided in decisions
            for line in decided.reasons(work.stage, numbered=not work.ranks)
        ]
        count = sum(len(decided.submit) for _, decided in decisions)
        if count and self.on_node and not self.jobs.profile.nodes_may_submit:
            text = f"{counted(count, 'partition')} of {stage} to submit"
            do = f"dinoforge retry {quote_path(self.run)}"
            return State(state="waiting", stage=stage, why=[text, *why], do=do)
        if not count and not live:
            for line in why:
                _log.error("%s", line)
            if not works[0].ranks:  # ranks record their end themselves
                record_end(self.run, 1 if self.jobs.launch.pipeline else 0)
            if path := self.jobs.launch.pipeline:
                pipeline, stages = find_pipeline(path), list(self.jobs.launch.stages)
                config = load_config(pipeline.config, self.run / "config.yaml")
                pipeline.account(self.run, config, stages[: stages.index(stage)])
            do = f"fix the cause, then dinoforge retry {quote_path(self.run)}"
            return State(state="stopped", stage=stage, why=why, do=do)
        jobs = set(live)
        for work, decided in decisions:
            if not live:
                work.prepare()
            jobs |= self.submitter.submit_work(work, decided.submit, may_wait=bool(jobs))
        gates = {entry.name for entry in self.submissions if entry.kind == "gate"}
        if jobs != live or not any(job.name in gates for job in self.queued):
            self._submit_gate(stage, jobs)
        return State(state="running", stage=stage, why=why)

    def _live(self, works: Sequence[StageWork]) -> set[str]:
        """Ids of the jobs of some stages that are pending or running."""
        stages = {work.stage for work in works}
        names = {e.name for e in self.submissions if e.is_work and e.stage in stages}
        return {job.job for job in self.queued if job.name in names}

    def decide(self, work: StageWork) -> Decisions:
        """Decide about every missing partition that is in no live job."""
        entries = [
            entry
            for entry in self.submissions
            if entry.is_work and entry.stage == work.stage and entry.job and not entry.forgiven
        ]
        history = History(self.jobs.folder, work.stage, entries, work.missing, work.progress)
        endings = history.endings(self.queued)
        if work.ranks:
            endings = {index: since_progress(ended) for index, ended in endings.items()}
        return decide_all(
            endings,
            Limits(work.job.memory_gb, work.job.minutes),
            most_limits(work.job),
            max_attempts=self.jobs.profile.max_attempts,
            fail_alike=bool(work.pipeline),
        )

    def _submit_gate(self, stage: str, after: set[str]) -> None:
        """Submit the gate behind all jobs; without it the run waits for ``dinoforge retry``."""
        name = self.jobs.name(stage, "gate")
        try:
            entry = Submission(name=name, kind="gate", stage=stage)
            self.submitter.submit(self.jobs.gate(name, sorted(after)), entry)
        except JobRefusedError as error:
            text = "SLURM refused the gate (%s): when the jobs have ended, dinoforge retry %s"
            _log.warning(text, error.reason, quote_path(self.run))
