"""A training or an evaluation: one job of ranks, and a gate behind it that starts it again.

A job that saved requeues itself (`slurm.rank`). The gate is for what ends the whole job at once:
out of memory, a time limit that came too early, a node that took everything along.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dinoforge.exports import steps_in
from dinoforge.slurm.arrays import submit_gate
from dinoforge.slurm.cluster.commands import Queued
from dinoforge.slurm.decisions import Again, Ending, Stop, decide
from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.judging import why_ended
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.requests import Requests
from dinoforge.slurm.rulings import limits_of
from dinoforge.slurm.store.attempts import Attempt, judge, read_attempts
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.ledger import Submission
from dinoforge.slurm.submission import Submitter

__all__ = ["RanksDriver", "ranks_job", "reached_step", "since_progress", "starts_in_vain"]


def ranks_job(profile: Profile, command: str, device: str) -> Job:
    """Say what a training or an evaluation asks for; an evaluation is one process."""
    job = profile.job(command, "cpu" if device == "cpu" else "gpu")
    return job if command == "train" else replace(job, nodes=1, tasks_per_node=1)


def reached_step(run: Path) -> int:
    """Step of the newest checkpoint; 0 before the first."""
    return max(steps_in(run / "checkpoints"), default=0)


def starts_in_vain(attempts: Sequence[Attempt]) -> int:
    """Count the last starts that all began from one step."""
    steps = [step for attempt in attempts for step in attempt.steps]
    count = 0
    while count < len(steps) and steps[-1 - count] == steps[-1]:
        count += 1
    return count


def since_progress(history: Sequence[Ending]) -> Sequence[Ending]:
    """Leave out how jobs ended before the newest one that got further: that was another trouble."""
    last = max((n for n, ending in enumerate(history) if ending.progressed), default=0)
    return history[last:]


@dataclass(frozen=True, kw_only=True)
class RanksDriver:
    """Takes a training or an evaluation one step further: start, start again, or stop."""

    folder: SlurmFolder
    requests: Requests
    submitter: Submitter
    on_node: bool

    @property
    def command(self) -> str:
        """``train`` or ``evaluate``."""
        return self.requests.launch.command

    def live(self, queued: Sequence[Queued]) -> list[Queued]:
        """Jobs of ranks that wait or run."""
        sent = self.submitter.ledger.submissions()
        names = {e.name for e in sent if e.kind == "ranks" and not e.forgiven}
        return [job for job in queued if job.name in names]

    def go(self, queued: Sequence[Queued]) -> State:
        """Look at the job; ``queued`` are the jobs of the run, without the one we are in."""
        state = self.folder.read_state()
        if state is not None and state.state in {"finished", "stopped"}:
            return state
        sent = {e.name: e for e in self.submitter.ledger.submissions() if not e.forgiven}
        live = self.live(queued)
        if live:
            gates = [job for job in queued if job.name in sent and sent[job.name].kind == "gate"]
            if not gates:
                submit_gate(self.requests, self.submitter, self.command, [live[0].job])
            return State(state="running", stage=self.command)
        job = ranks_job(self.requests.profile, self.command, self.requests.launch.device)
        found = self._decide(job, [e for e in sent.values() if e.kind == "ranks" and e.job])
        run = self.folder.run
        if isinstance(found, Stop):
            why = [f"{self.command}: {found.outcome}: {found.message}"]
            do = f"mend the cause, then dinoforge retry {run}"
            return State(state="stopped", stage=self.command, why=why, do=do)
        if self.on_node and not self.requests.profile.nodes_may_submit:
            why = ["the job ended early and is to be submitted again"]
            do = f"dinoforge retry {run}"
            return State(state="waiting", stage=self.command, why=why, do=do)
        self._submit(replace(job, memory_gb=found.memory_gb, minutes=found.minutes))
        return State(state="running", stage=self.command)

    def _decide(self, job: Job, sent: Sequence[Submission]) -> Again | Stop:
        attempts = self._attempts(0)
        reached = reached_step(self.folder.run)
        history: list[Ending] = []
        for entry in reversed(sent):
            attempt = attempts.get(entry.name)
            history.insert(0, self._ending(entry, attempt, job, reached))
            reached = min(attempt.steps, default=reached) if attempt is not None else reached
        mine = [attempts[entry.name] for entry in sent if entry.name in attempts]
        most = self.requests.profile.max_attempts
        found = decide(since_progress(history), limits_of(job))
        if isinstance(found, Again) and starts_in_vain(mine) > most:
            return Stop(history[-1].outcome, f"no progress in {most} starts")
        return found

    def _attempts(self, rank: int) -> dict[str, Attempt]:
        found = read_attempts(self.folder.attempt(self.command, rank))
        return {attempt.plan: attempt for attempt in found}

    def _ending(self, entry: Submission, attempt: Attempt | None, job: Job, reached: int) -> Ending:
        known = attempt or Attempt(
            plan=entry.name, job=entry.job, memory_gb=job.memory_gb, minutes=job.minutes
        )
        if not known.outcome:
            outcome, message = self._told_by_others(entry, job) or self._found_out(entry, known)
            judge(self.folder.attempt(self.command, 0), known, outcome, message)
            known = replace(known, outcome=str(outcome), message=message)
        return Ending(
            outcome=Outcome(known.outcome),
            message=known.message,
            memory_gb=known.memory_gb,
            minutes=known.minutes,
            progressed=reached > min(known.steps, default=reached),
        )

    def _told_by_others(self, entry: Submission, job: Job) -> tuple[Outcome, str] | None:
        """Look whether another rank said how it ended; rank 0 then ended because of it."""
        for rank in range(1, job.nodes * job.tasks_per_node):
            other = self._attempts(rank).get(entry.name)
            if other is not None and other.outcome not in {"", Outcome.DONE, Outcome.PREEMPTED}:
                return Outcome(other.outcome), other.message
        return None

    def _found_out(self, entry: Submission, known: Attempt) -> tuple[Outcome, str]:
        logs = [self.folder.logs / f"{entry.name}_rank{which}.out" for which in ("0", "batch")]
        verdict = why_ended(entry, known, logs)
        return verdict.outcome, verdict.message

    def _submit(self, job: Job) -> None:
        name = self.requests.name(self.command, 0)
        entry = Submission(name=name, kind="ranks", stage=self.command)
        sent = self.submitter.submit(self.requests.ranks(name, job, self.command), entry)
        submit_gate(self.requests, self.submitter, self.command, [sent])
