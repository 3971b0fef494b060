"""One rank of a training or an evaluation: a torch-free parent that starts, signals, requeues.

    srun ... python -P -m dinoforge.slurm.node.rank RUN NAME

It sets the rendezvous variables that torch reads, runs ``dinoforge COMMAND RUN/config.yaml`` and
forwards signals. The child starts with USR1, USR2 and TERM blocked, so that one that arrives while
it imports waits until the training has its handlers, instead of killing it.

SLURM does not restart a preempted job that exits by itself: when the child has saved and exits with
75, rank 0 requests the requeue and every rank waits to be killed.

Exit codes: 0 done; 23 a duplicate of a job that runs already; the child's own below 64; 70 stopped
after starts without progress; 71 the child was killed; 75 to be restarted, but the requeue failed;
76 another rank is gone.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dinoforge.config import load_config
from dinoforge.errors import DinoforgeError, Interrupted, RankLost
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import ask
from dinoforge.slurm.node.command import blocked, classify_exit, start_command
from dinoforge.slurm.node.watch import watch_exports
from dinoforge.slurm.outcomes import Outcome, Verdict
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.evaluations import reached_step
from dinoforge.slurm.store.events import AttemptWriter, read_attempts, starts_without_progress
from dinoforge.slurm.store.layout import DUPLICATE, JobPlan, SlurmFolder, State
from dinoforge.slurm.store.logs import log_size

__all__ = ["main", "rendezvous"]

_log = logging.getLogger(__name__)

STOPPED, KILLED = 70, 71

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_WAIT_TO_BE_KILLED_S = 600.0
_SUBMITS_WITHIN_S = 15.0


def main(arguments: Sequence[str]) -> int:
    """Run one rank."""
    folder, name = SlurmFolder(Path(arguments[0])), arguments[1]
    rank, job = int(os.environ.get("SLURM_PROCID", "0")), os.environ.get("SLURM_JOB_ID", "")
    set_up_logging(rank=rank)
    if not folder.claim(name, job):
        _log.warning("%s: another job runs this; nothing to do", name)
        return DUPLICATE
    plan = folder.read_plan(name)
    attempt = AttemptWriter(folder.attempt(plan.stage, rank), plan=name, job=job)
    return _Rank(folder, plan, rank, job, attempt).run()


@dataclass(frozen=True)
class _Rank:
    folder: SlurmFolder
    plan: JobPlan
    rank: int
    job: str
    attempt: AttemptWriter

    def run(self) -> int:
        step = reached_step(self.folder.run)
        self.attempt.start(memory_gb=self.plan.memory_gb, minutes=self.plan.minutes, step=step)
        profile = load_config(Profile, self.folder.profile)
        if self.rank == 0 and self._starts_in_vain() > profile.max_attempts:
            text = f"no progress beyond step {step} in {profile.max_attempts} starts"
            _log.error("%s", text)
            self._stop(Outcome.NO_PROGRESS, text)
            return STOPPED
        log = self.folder.log(self.plan.name, f"rank{self.rank}")
        start = log_size(log)
        end = threading.Event()
        watch = threading.Thread(target=watch_exports, args=(self.folder, end), daemon=True)
        if self.rank == 0 and self.plan.stage == "train" and profile.nodes_may_submit:
            watch.start()
        code = self._run_child()
        end.set()
        if watch.is_alive() and code != Interrupted.exit_code:
            watch.join(_SUBMITS_WITHIN_S)
        # A rank above 0 without an error message ended because of another one, which has it.
        otherwise = "" if self.rank else f"see {log}"
        return self._end(code, classify_exit(code, log, start, otherwise=otherwise))

    def _run_child(self) -> int:
        run = self.folder.run
        with blocked(_SIGNALS):
            arguments = [self.plan.stage, str(run / "config.yaml"), f"out={run}"]
            # A command that runs in the job may write the run.
            child = start_command(arguments, **rendezvous(), DINOFORGE_JOB=self.job)

            def forward(number: int, _frame: FrameType | None) -> None:
                self.attempt.signal(number)
                child.send_signal(number)

            for number in _SIGNALS:
                signal.signal(number, forward)
        return child.wait()

    def _end(self, code: int, verdict: Verdict) -> int:
        """Record how the child ended, and have it restarted if it asks for that."""
        if code == RankLost.exit_code:
            return code  # the rank that is gone records why, or the driver finds out
        if verdict.outcome is Outcome.KILLED:
            # No end is recorded: the driver asks SLURM why, and gives more memory if that was it.
            _log.error("rank %d: %s", self.rank, verdict.message)
            return KILLED
        if verdict.outcome in {Outcome.USAGE, Outcome.EXCEPTION}:
            if verdict.message:
                self._stop(verdict.outcome, f"rank {self.rank}: {verdict.message}")
            return min(code, 63)
        self.attempt.end(verdict.outcome, verdict.message)
        if self.folder.is_cancelled():
            return code
        if code == 0 and self.rank == 0 and not self.folder.read_launch().evaluations:
            self.folder.write_state(State(state="finished"))
        if verdict.outcome is Outcome.PREEMPTED and (self.rank or self._requeue()):
            time.sleep(_WAIT_TO_BE_KILLED_S)
        return code

    def _stop(self, outcome: Outcome, text: str) -> None:
        """Record an error; of one that is final also what the gate, which may be late, will."""
        self.attempt.end(outcome, text)
        if outcome is not Outcome.EXCEPTION and not self.folder.is_cancelled():
            stage = self.plan.stage
            do = f"fix the cause, then dinoforge retry {self.folder.run}"
            why = [f"{stage}: {outcome}: {text}"]
            self.folder.write_state(State(state="stopped", stage=stage, why=why, do=do))

    def _starts_in_vain(self) -> int:
        """Count the last starts of rank 0 from one step, since the last ``retry``."""
        submissions = self.folder.submissions.read()
        forgiven = {entry.name for entry in submissions if entry.forgiven}
        attempts = read_attempts(self.folder.attempt(self.plan.stage, 0))
        return starts_without_progress([a for a in attempts if a.plan not in forgiven])

    def _requeue(self) -> bool:
        for _ in range(2):
            try:
                ask(["scontrol", "requeue", self.job], timeout_s=60)
            except DinoforgeError as error:
                _log.warning("scontrol requeue: %s", error)
            else:
                return True
        return False


def rendezvous() -> dict[str, str]:
    """Set the variables that torch reads from those of SLURM."""
    given = os.environ
    nodes, host = given.get("SLURM_JOB_NODELIST", ""), "localhost"
    if nodes:
        host = ask(["scontrol", "show", "hostnames", nodes]).split()[0]
    return {
        "RANK": given.get("SLURM_PROCID", "0"),
        "WORLD_SIZE": given.get("SLURM_NTASKS", "1"),
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": given.get("SLURM_NTASKS_PER_NODE", "1"),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(20000 + int(given.get("SLURM_JOB_ID", "0")) % 10000),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
