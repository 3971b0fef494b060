"""The driver: one function, `advance`, that takes a run one step further, from wherever it is.

The command that submits calls it first, gates call it next, ``dinoforge retry`` calls it by hand.
It reads markers, never the word of a scheduler or an exit code, so it may be called at any time, by
anybody, twice.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.config import load_config
from dinoforge.errors import DinoforgeError
from dinoforge.runs import record_end
from dinoforge.slurm.arrays import chunks, submit_arrays, submit_gate
from dinoforge.slurm.cluster.commands import Queued, SlurmUnavailableError, queue
from dinoforge.slurm.cluster.limits import max_array_size
from dinoforge.slurm.evaluations import EvaluationsDriver, advance_training
from dinoforge.slurm.judging import Judge
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.ranks import RanksDriver
from dinoforge.slurm.requests import Requests
from dinoforge.slurm.rulings import Rulings, limits_of, rule
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.lease import Lease, LeaseBusyError, hold_lease
from dinoforge.slurm.store.ledger import Ledger
from dinoforge.slurm.submission import Submitter
from dinoforge.stages import (
    Pipeline,
    StagePlan,
    Task,
    find_pipeline,
    make_inputs,
    plan_in_order,
    remove_temporary_files,
    stage_kind,
)

__all__ = ["advance"]

_log = logging.getLogger(__name__)


def advance(run: Path, *, on_node: bool = False, wait_s: float = 600.0) -> State:
    """Take a run one step further.

    For each stage in order: nothing missing, go on; something missing, submit it and a gate that
    calls this function again. After the last stage: finish. A training or an evaluation is one job,
    with a gate behind it; evaluations of a training's exports are jobs of their own.

    Parameters
    ----------
    run : Path
        A run folder that was submitted: ``RUN/slurm/launch.json`` is there.
    on_node : bool
        Called by a gate; where nodes may not submit it only records what to type.
    wait_s : float
        How long to wait for another driver.

    Returns
    -------
    State
        Also written to ``RUN/slurm/state.json``.

    Raises
    ------
    UsageError
        What the user can mend: SLURM refused a job, the recipe finds nothing to do.
    SlurmUnavailableError
        If SLURM gave no answer; nothing is lost, call it again.
    LeaseBusyError
        If another driver was at work all the time.
    """
    folder = SlurmFolder(run)
    with hold_lease(folder.lease, wait_s=wait_s) as lease:
        if folder.is_cancelled():
            return folder.read_state() or State(state="cancelled")
        try:
            state = _go(folder, lease, on_node=on_node)
        except (SlurmUnavailableError, LeaseBusyError):
            raise
        except Exception as error:
            told = str(error) if isinstance(error, DinoforgeError) else repr(error)
            mend = f"mend it, then dinoforge retry {run}"
            folder.write_state(State(state="stopped", why=told.splitlines(), do=mend))
            raise
        folder.write_state(state)
        return state


def _go(folder: SlurmFolder, lease: Lease, *, on_node: bool) -> State:
    launch = folder.read_launch()
    ledger = Ledger(folder.ledger)
    submitter = Submitter(folder, ledger, lease)
    submitter.settle()
    requests = Requests(folder, launch, load_config(Profile, folder.profile))
    # Without the job that we are in: a gate, or an element that walks on.
    me = {os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID")}
    queued = [job for job in queue(launch.job_prefix) if job.job not in me]
    if not launch.pipeline:
        ranks = RanksDriver(folder=folder, requests=requests, submitter=submitter, on_node=on_node)
        if not launch.evaluations:
            return ranks.go(queued)
        evaluations = EvaluationsDriver(folder=folder, requests=requests, submitter=submitter)
        return advance_training(ranks, evaluations, queued)
    pipeline = find_pipeline(launch.pipeline)
    driver = _Driver(
        folder=folder,
        requests=requests,
        pipeline=pipeline,
        config=load_config(pipeline.config, folder.run / "config.yaml"),
        ledger=ledger,
        submitter=submitter,
        on_node=on_node,
    )
    return driver.go(queued)


@dataclass(frozen=True, kw_only=True)
class _Driver:
    folder: SlurmFolder
    requests: Requests
    pipeline: Pipeline
    config: Any
    ledger: Ledger
    submitter: Submitter
    on_node: bool

    def go(self, queued: Sequence[Queued]) -> State:
        if not queued:
            self._remove_temporary_files()
        pipeline = self.pipeline
        inputs = make_inputs(pipeline.name, pipeline.stages, self.folder.run, self.config)
        for plan, missing in plan_in_order(pipeline.stages, inputs):
            if missing:
                return self._bring_on(plan, missing, queued)
            plan.prepare([], self._reopen)
        pipeline.finish(self.folder.run, self.config)
        record_end(self.folder.run, 0)
        _log.info("all stages are done")
        return State(state="finished")

    def _remove_temporary_files(self) -> None:
        for path in self.folder.run.iterdir():
            if path.is_dir() and path != self.folder.root:
                remove_temporary_files(path)

    def _bring_on(
        self, plan: StagePlan, missing: Sequence[Task], queued: Sequence[Queued]
    ) -> State:
        """Submit, wait or stop, by what is known of the missing partitions."""
        stage, run = plan.stage.name, self.folder.run
        rulings = self._rule(plan, missing, queued)
        why = rulings.reasons(stage)
        flying = {job.job for job in queued if job.element is not None}
        if not rulings.again:
            if flying:
                self._keep_a_gate(stage, flying, queued)
                return State(state="running", stage=stage, why=why)
            for line in why:
                _log.error("%s", line)
            record_end(run, 1)
            do = f"mend the cause, then dinoforge retry {run}"
            return State(state="stopped", stage=stage, why=why, do=do)
        if self.on_node and not self.requests.profile.nodes_may_submit:
            text = f"{len(rulings.again)} partitions of {stage} are to be submitted"
            do = f"dinoforge retry {run}"
            return State(state="waiting", stage=stage, why=[text, *why], do=do)
        if not flying:
            plan.prepare(missing, self._reopen)
        sent = self._submit(plan, rulings, done=len(plan.payloads) - len(missing))
        submit_gate(self.requests, self.submitter, stage, sorted(flying | sent))
        return State(state="running", stage=stage, why=why)

    def _reopen(self) -> None:
        self.pipeline.reopen(self.folder.run)

    def _rule(self, plan: StagePlan, missing: Sequence[Task], queued: Sequence[Queued]) -> Rulings:
        """Decide about every missing partition that no job has."""
        sent = [
            entry
            for entry in self.ledger.submissions()
            if entry.kind == "array"
            and entry.stage == plan.stage.name
            and entry.outcome in {"submitted", "cancelled"}
            and not entry.forgiven
        ]
        done = len(plan.payloads) - len(missing)
        rounds = len({entry.round for entry in sent if entry.done == done})
        judge = Judge(self.folder, plan.stage.name, sent, queued, {t.index for t in missing})
        waiting = [task for task in missing if task.index not in judge.in_flight()]
        profile = self.requests.profile
        return rule(
            waiting,
            judge.histories(task.index for task in waiting),
            limits_of(profile.job(plan.stage.name, stage_kind(plan.stage, self.config))),
            in_vain=rounds if rounds >= profile.max_attempts else 0,
        )

    def _submit(self, plan: StagePlan, rulings: Rulings, *, done: int) -> set[str]:
        stage = plan.stage
        job = self.requests.profile.job(stage.name, stage_kind(stage, self.config))
        work = list(chunks(job, rulings.again, max_array_size()))
        taken = submit_arrays(self.requests, self.submitter, plan, self.config, work, done)
        count = sum(len(chunk.tasks) for chunk in taken.values())
        _log.info("%s: %d partitions submitted, jobs %s", stage.name, count, ", ".join(taken))
        return set(taken)

    def _keep_a_gate(self, stage: str, flying: set[str], queued: Sequence[Queued]) -> None:
        """Put a gate behind arrays that have none: the driver that sent them was killed."""
        gates = {entry.name for entry in self.ledger.submissions() if entry.kind == "gate"}
        if not any(job.name in gates for job in queued):
            submit_gate(self.requests, self.submitter, stage, sorted(flying))
