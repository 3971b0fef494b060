"""An evaluation job for each export that a training keeps: which are missing, why, once more.

Called by whoever holds the lease: rank 0 while the training runs (`slurm.watch`), the gate behind
the training, and ``dinoforge retry``.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoforge.config import changed_keys, config_yaml, to_plain
from dinoforge.errors import UsageError
from dinoforge.files import write_text
from dinoforge.runs import record_end
from dinoforge.slurm.arrays import submit_gate
from dinoforge.slurm.cluster.commands import Queued
from dinoforge.slurm.cluster.executor import JobRefusedError
from dinoforge.slurm.decisions import Again, Ending, Limits, Stop, decide
from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.judging import why_ended
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.ranks import RanksDriver, ranks_job, reached_step
from dinoforge.slurm.requests import Requests
from dinoforge.slurm.rulings import limits_of
from dinoforge.slurm.store.attempts import Attempt, judge, read_attempts
from dinoforge.slurm.store.evaluations import Evaluation, Kept
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.ledger import Submission
from dinoforge.slurm.submission import Submitter

__all__ = [
    "Due",
    "EvaluationsDriver",
    "Missing",
    "advance_training",
    "asked_evaluations",
    "check_unchanged",
    "evaluation_job",
    "state_after_training",
    "write_recipes",
]

_log = logging.getLogger(__name__)


def asked_evaluations(folder: SlurmFolder) -> list[Evaluation]:
    """List the evaluations that a training was submitted with."""
    return [Evaluation(folder.run, name) for name in folder.read_launch().evaluations]


def evaluation_job(profile: Profile, device: str) -> Job:
    """Say what an evaluation beside a training asks for: what ``stages.evaluate`` says."""
    return ranks_job(profile, "evaluate", device)


def state_after_training(folder: SlurmFolder, command: str) -> State:
    """How a run is when its ranks are done: the gate behind them looks after the evaluations."""
    if asked_evaluations(folder):
        return State(state="running", stage="evaluate")
    return State(state="finished", stage=command)


def advance_training(
    ranks: RanksDriver, evaluations: "EvaluationsDriver", queued: Sequence[Queued]
) -> State:
    """Take a training that is measured one step further: the training first, then what is left."""
    folder = ranks.folder
    state = folder.read_state()
    if state is not None and state.state in {"finished", "stopped"}:
        return state
    if not ranks.live(queued) and _is_trained(folder):
        return evaluations.finish(queued, on_node=ranks.on_node)
    state = ranks.go(queued)
    if state.state == "running":
        evaluations.submit_beside(queued, on_node=ranks.on_node)
    return state


def _is_trained(folder: SlurmFolder) -> bool:
    """Tell whether the training has reached its last step and saved it."""
    return reached_step(folder.run) >= Kept.of(folder.run).last


def check_unchanged(run: Path, configs: Mapping[str, Any]) -> None:
    """Refuse a changed evaluation recipe of a run: steps measured by two recipes are no curve.

    Raises
    ------
    UsageError
        Naming the changed keys of the first one.
    """
    for name, config in configs.items():
        changed = _changed(Evaluation(run, name), config)
        if changed:
            raise UsageError(
                what=f"the evaluation {name} changed: {', '.join(f'`{key}`' for key in changed)}",
                where=str(Evaluation(run, name).folder),
                do="give the recipe another name, or add --update (measure every step anew)",
            )


def write_recipes(run: Path, configs: Mapping[str, Any]) -> None:
    """Write the evaluation recipes of a run; what was measured by another one is forgotten."""
    for name, config in configs.items():
        evaluation = Evaluation(run, name)
        if _changed(evaluation, config):
            evaluation.forget()
        write_text(evaluation.recipe, config_yaml(replace(config, **evaluation.ours())))


def _changed(evaluation: Evaluation, config: Any) -> list[str]:
    if not evaluation.recipe.is_file():
        return []
    new = to_plain(replace(config, **evaluation.ours()))
    return changed_keys(evaluation.plain | evaluation.ours(), new)


@dataclass(frozen=True)
class Due:
    """One export that is to be measured, and under which limits."""

    evaluation: Evaluation
    step: int
    again: Again


@dataclass(frozen=True)
class Missing:
    """What is not measured yet."""

    flying: list[str] = field(default_factory=list)  # ids of jobs that wait or run
    due: list[Due] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)  # why others are not tried again

    def __bool__(self) -> bool:
        """Tell whether anything is missing."""
        return bool(self.flying or self.due or self.stops)


@dataclass(frozen=True, kw_only=True)
class EvaluationsDriver:
    """Knows the evaluations of one training; made by the holder of the lease."""

    folder: SlurmFolder
    requests: Requests
    submitter: Submitter
    _known: dict[str, Limits] = field(default_factory=dict)  # by the device of a recipe

    @cached_property
    def _sent(self) -> list[Submission]:
        entries = self.submitter.ledger.submissions()
        return [entry for entry in entries if entry.kind == "evaluation"]

    def missing(self, queued: Sequence[Queued]) -> Missing:
        """Sort the kept exports that are not measured.

        Parameters
        ----------
        queued : sequence of Queued
            Jobs of the run, asked for before this call: what ends meanwhile is then done.
        """
        live = {job.name: job.job for job in queued}
        found = Missing()
        steps = Kept.of(self.folder.run).steps(self.folder.run)
        for evaluation in asked_evaluations(self.folder):
            for step in steps:
                if evaluation.is_done(step):
                    continue
                jobs = [live[e.name] for e in self._jobs(evaluation, step) if e.name in live]
                if jobs:
                    found.flying.extend(jobs)
                    continue
                ruling = self._rule(evaluation, step)
                if isinstance(ruling, Stop):
                    where = f"{evaluation.stage} {step}"
                    found.stops.append(f"{where}: {ruling.outcome}: {ruling.message}")
                else:
                    found.due.append(Due(evaluation, step, ruling))
        return found

    def submit(self, due: Sequence[Due], *, others: int = 0) -> list[str]:
        """Submit evaluations until the queue is full; returns the ids.

        Parameters
        ----------
        due : sequence of Due
            What to submit, in order.
        others : int
            Jobs whose end will bring another call: the queue may be full of them.

        Raises
        ------
        JobRefusedError
            If SLURM says no for another reason than a full queue, or takes nothing at all.
        """
        sent: list[str] = []
        for one in due:
            try:
                sent.append(self._submit(one))
            except JobRefusedError as error:
                if not error.is_queue_full or not (sent or others):
                    raise
                _log.info("the queue is full: other evaluations follow")
                break
        return sent

    def _submit(self, due: Due) -> str:
        evaluation, step, profile = due.evaluation, due.step, self.requests.profile
        job = replace(
            evaluation_job(profile, evaluation.device),
            memory_gb=due.again.memory_gb,
            minutes=due.again.minutes,
        )
        name = self.requests.name(evaluation.stage, step)
        entry = Submission(name=name, kind="evaluation", stage=evaluation.stage, step=step)
        request = self.requests.evaluation(name, job, evaluation.name, step)
        sent = self.submitter.submit(request, entry)
        _log.info("%s: step %d is measured by job %s", evaluation.stage, step, sent)
        return sent

    def _jobs(self, evaluation: Evaluation, step: int) -> list[Submission]:
        mine = evaluation.stage
        return [entry for entry in self._sent if (entry.stage, entry.step) == (mine, step)]

    def _rule(self, evaluation: Evaluation, step: int) -> Again | Stop:
        job = evaluation_job(self.requests.profile, evaluation.device)
        path = self.folder.attempt(evaluation.stage, step)
        attempts = {attempt.plan: attempt for attempt in read_attempts(path)}
        history = [
            self._ending(evaluation, entry, attempts.get(entry.name), job)
            for entry in self._jobs(evaluation, step)
            if entry.job and not entry.forgiven
        ]
        if not history:
            return Again(job.memory_gb, job.minutes)
        found = decide(history, self._limits(evaluation))
        most = self.requests.profile.max_attempts
        if isinstance(found, Again) and len(history) >= most:
            last = history[-1]
            text = f"not done in {most} submissions"
            return Stop(last.outcome, f"{last.message}; {text}" if last.message else text)
        return found

    def _limits(self, evaluation: Evaluation) -> Limits:
        """Ask the cluster once, however many steps are missing."""
        device = evaluation.device
        if device not in self._known:
            self._known[device] = limits_of(evaluation_job(self.requests.profile, device))
        return self._known[device]

    def _ending(
        self, evaluation: Evaluation, entry: Submission, attempt: Attempt | None, job: Job
    ) -> Ending:
        known = attempt or Attempt(
            plan=entry.name, job=entry.job, memory_gb=job.memory_gb, minutes=job.minutes
        )
        if not known.outcome:
            path = self.folder.attempt(evaluation.stage, entry.step)
            why = why_ended(entry, known, [self.folder.log(entry.name)])
            judge(path, known, why.outcome, why.message)
            known = replace(known, outcome=str(why.outcome), message=why.message)
        outcome = Outcome(known.outcome)
        return Ending(
            outcome=Outcome.NO_MARKER if outcome is Outcome.DONE else outcome,
            message=known.message,
            memory_gb=known.memory_gb,
            minutes=known.minutes,
        )

    def submit_beside(self, queued: Sequence[Queued], *, on_node: bool) -> None:
        """Submit what is due while the training runs, which a refusal does not disturb."""
        if on_node and not self.requests.profile.nodes_may_submit:
            return
        try:
            self.submit(self.missing(queued).due, others=len(queued))
        except UsageError as error:
            _log.warning("%s", error)

    def finish(self, queued: Sequence[Queued], *, on_node: bool) -> State:
        """Go on after the end of the training: submit what is missing, wait for it, or end."""
        missing = self.missing(queued)
        run, stage = self.folder.run, "evaluate"
        if not missing:
            record_end(run, 0)
            return State(state="finished", stage=stage)
        if missing.due and on_node and not self.requests.profile.nodes_may_submit:
            count = len(missing.due)
            text = f"{count} evaluation{'s are' if count > 1 else ' is'} to be submitted"
            do = f"dinoforge retry {run}"
            return State(state="waiting", stage=stage, why=[text, *missing.stops], do=do)
        sent = self.submit(missing.due, others=len(missing.flying))
        if sent or missing.flying:
            if sent or not self._has_gate(queued):
                submit_gate(self.requests, self.submitter, stage, [*missing.flying, *sent])
            return State(state="running", stage=stage, why=missing.stops)
        record_end(run, 0)  # the training itself is done
        do = f"mend the cause, then dinoforge retry {run}"
        return State(state="stopped", stage=stage, why=missing.stops, do=do)

    def _has_gate(self, queued: Sequence[Queued]) -> bool:
        gates = {e.name for e in self.submitter.ledger.submissions() if e.kind == "gate"}
        return any(job.name in gates for job in queued)
