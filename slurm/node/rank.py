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
from pathlib import Path
from types import FrameType

from dinoforge.config import load_config
from dinoforge.errors import DinoforgeError, Interrupted, RankLost
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import ask
from dinoforge.slurm.node.command import blocked, classify_exit, start_command
from dinoforge.slurm.node.watch import watch_exports
from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.attempts import AttemptWriter, read_attempts, starts_without_progress
from dinoforge.slurm.store.evaluations import reached_step
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.logs import log_size
from dinoforge.slurm.store.plans import DUPLICATE, claim, read_plan
from dinoforge.slurm.store.submissions import Submissions

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
    if not claim(folder, name, job):
        _log.warning("%s: another job runs this; nothing to do", name)
        return DUPLICATE
    plan = read_plan(folder.plan(name))
    attempt = AttemptWriter(folder.attempt(plan.stage, rank), plan=name, job=job)
    step = reached_step(folder.run)
    attempt.start(memory_gb=plan.memory_gb, minutes=plan.minutes, step=step)
    profile = load_config(Profile, folder.profile)
    if rank == 0 and _starts_in_vain(folder, plan.stage) > profile.max_attempts:
        text = f"no progress beyond step {step} in {profile.max_attempts} starts"
        _log.error("%s", text)
        attempt.end(Outcome.NO_PROGRESS, text)
        return STOPPED
    log = folder.rank_log(name, rank)
    start = log_size(log)
    end = threading.Event()
    watch = threading.Thread(target=watch_exports, args=(folder, end), daemon=True)
    if rank == 0 and plan.stage == "train" and profile.nodes_may_submit:
        watch.start()
    code = _run_child(folder.run, plan.stage, attempt, job)
    end.set()
    if watch.is_alive() and code != Interrupted.exit_code:
        watch.join(_SUBMITS_WITHIN_S)
    if code == RankLost.exit_code:
        return code  # the rank that is gone records why, or the driver finds out
    # A rank above 0 without an error message ended because of another one, which has it.
    verdict = classify_exit(code, log, start, otherwise="" if rank else f"see {log}")
    if verdict.outcome is Outcome.KILLED:
        # No end is recorded: the driver asks SLURM why, and gives more memory if that was it.
        _log.error("rank %d: %s", rank, verdict.message)
        return KILLED
    if verdict.outcome in {Outcome.USAGE, Outcome.EXCEPTION}:
        if verdict.message:
            attempt.end(verdict.outcome, f"rank {rank}: {verdict.message}")
        return min(code, 63)
    attempt.end(verdict.outcome, verdict.message)
    restart = verdict.outcome is Outcome.PREEMPTED and not folder.is_cancelled()
    if restart and (rank or _requeue(job)):
        time.sleep(_WAIT_TO_BE_KILLED_S)
    return code


def _starts_in_vain(folder: SlurmFolder, command: str) -> int:
    """Count the last starts of rank 0 from one step, since the last ``retry``."""
    forgiven = {e.name for e in Submissions(folder.submissions).read() if e.forgiven}
    attempts = read_attempts(folder.attempt(command, 0))
    return starts_without_progress([a for a in attempts if a.plan not in forgiven])


def _run_child(run: Path, command: str, attempt: AttemptWriter, job: str) -> int:
    with blocked(_SIGNALS):
        arguments = [command, str(run / "config.yaml"), f"out={run}"]
        child = start_command(arguments, **rendezvous(), DINOFORGE_JOB=job)  # may write the run

        def forward(number: int, _frame: FrameType | None) -> None:
            attempt.signal(number)
            child.send_signal(number)

        for number in _SIGNALS:
            signal.signal(number, forward)
    return child.wait()


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


def _requeue(job: str) -> bool:
    for _ in range(2):
        try:
            ask(["scontrol", "requeue", job], timeout_s=60)
        except DinoforgeError as error:
            _log.warning("scontrol requeue: %s", error)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
