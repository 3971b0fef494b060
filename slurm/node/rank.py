"""One rank of a training or an evaluation: a torch-free parent that starts, signals, requeues.

    srun ... python -P -m dinoforge.slurm.node.rank RUN NAME COMMAND MEMORY_GB MINUTES

It names the rendezvous the way torch reads it, runs ``dinoforge COMMAND RUN/config.yaml`` and
passes signals on. The child starts with USR1, USR2 and TERM blocked, so that one which comes while
it imports waits until the training has its handlers, instead of killing it.

A preempted job that exits by itself is not started again by SLURM: when the child has saved and
says 75, rank 0 asks for the requeue and every rank waits to be killed.

Exit codes: 0 done; 23 a double of a job that runs already; the child's own below 64; 70 it was
stopped after attempts without progress; 71 the child was killed; 75 it is to be started again and
nobody could; 76 another rank is gone.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dinoforge.config import load_config
from dinoforge.errors import DinoforgeError, Interrupted, RankLost, UsageError
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import ask
from dinoforge.slurm.evaluations import state_after_training
from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.node.watch import Watch
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.ranks import reached_step, starts_in_vain
from dinoforge.slurm.store.attempts import Attempt, AttemptWriter, read_attempts
from dinoforge.slurm.store.claims import DOUBLE, claim
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.ledger import Ledger
from dinoforge.slurm.store.logs import last_words, log_size

__all__ = ["main", "rendezvous"]

_log = logging.getLogger(__name__)

AGAIN, LOST = Interrupted.exit_code, RankLost.exit_code
STOPPED, KILLED = 70, 71

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_WAIT_TO_BE_KILLED_S = 600.0
_SUBMITS_WITHIN_S = 15.0


def main(words: Sequence[str]) -> int:
    """Run one rank."""
    folder, name, command = SlurmFolder(Path(words[0])), words[1], words[2]
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    set_up_logging(rank=rank)
    if not claim(folder, name, _job_id()):
        _log.warning("%s: another job runs this; nothing to do", name)
        return DOUBLE
    attempt = AttemptWriter(folder.attempt(command, rank), plan=name, job=_job_id())
    profile = load_config(Profile, folder.profile)
    step = reached_step(folder.run)
    attempt.start(memory_gb=float(words[3]), minutes=int(words[4]), step=step)
    if rank == 0 and starts_in_vain(_counted(folder, command)) > profile.max_attempts:
        text = f"no progress beyond step {step} in {profile.max_attempts} starts"
        return _stop(folder, command, attempt, Outcome.UNKNOWN, text)
    log = _log_name(folder, name, rank)
    said_before = log_size(log)
    watch = Watch(folder).start() if rank == 0 and command == "train" else None
    code = _run_child(folder.run, command, attempt)
    if watch is not None:
        watch.end(wait_s=0.0 if code == AGAIN else _SUBMITS_WITHIN_S)
    if code > 0 and code not in {AGAIN, LOST}:
        told = last_words(log, said_before) or ("" if rank else f"see {log}")
        return _failed(folder, command, attempt, code, f"rank {rank}: {told}" if told else "")
    return _ended(folder, command, attempt, code)


def _ended(folder: SlurmFolder, command: str, attempt: AttemptWriter, code: int) -> int:
    """Say how a child ended that made no mistake, and start it again if it asks for that."""
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    if code == AGAIN:
        attempt.end(Outcome.PREEMPTED, "it saved and asks to be started again")
        return _again(rank)
    if code == 0:
        attempt.end(Outcome.DONE)
        if rank == 0:
            folder.write_state(state_after_training(folder, command))
        return 0
    if code < 0:
        # No end is written: the gate asks SLURM why, and gives more memory if that was it.
        _log.error("rank %d was ended by %s", rank, signal.Signals(-code).name)
        return KILLED
    return LOST  # the rank that is gone tells why, or the gate finds out


def _failed(folder: SlurmFolder, command: str, attempt: AttemptWriter, code: int, text: str) -> int:
    """Say what a child said; one that said nothing ended because of another rank, which tells."""
    if code == UsageError.exit_code and text:
        return _stop(folder, command, attempt, Outcome.USAGE, text, code=code)
    if text:
        attempt.end(Outcome.EXCEPTION, text)  # the gate tries once more
    return min(code, 63)


def _stop(
    folder: SlurmFolder,
    command: str,
    attempt: AttemptWriter,
    outcome: Outcome,
    text: str,
    *,
    code: int = STOPPED,
) -> int:
    attempt.end(outcome, text)
    do = f"mend the cause, then dinoforge retry {folder.run}"
    folder.write_state(State(state="stopped", stage=command, why=[text], do=do))
    _log.error("%s", text)
    return code


def rendezvous() -> dict[str, str]:
    """Name the variables that torch reads, from those of SLURM."""
    given = os.environ
    nodes = given.get("SLURM_JOB_NODELIST", "")
    host = "localhost"
    if nodes:
        host = ask(["scontrol", "show", "hostnames", nodes]).split()[0]
    tasks = given.get("SLURM_NTASKS_PER_NODE", "1")
    return {
        "RANK": given.get("SLURM_PROCID", "0"),
        "WORLD_SIZE": given.get("SLURM_NTASKS", "1"),
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": tasks,
        "MASTER_ADDR": host,
        "MASTER_PORT": str(20000 + int(given.get("SLURM_JOB_ID", "0")) % 10000),
    }


def _run_child(run: Path, command: str, attempt: AttemptWriter) -> int:
    words = [sys.executable, "-m", "dinoforge", command, str(run / "config.yaml"), f"out={run}"]
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # The working folder must not win over the snapshot; and the run is ours to write.
    environment = os.environ | rendezvous() | {"PYTHONSAFEPATH": "1", "DINOFORGE_JOB": _job_id()}
    child = subprocess.Popen(words, env=environment)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        attempt.signal(signal.Signals(number).name.removeprefix("SIG"))
        child.send_signal(number)

    for number in _SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return child.wait()


def _counted(folder: SlurmFolder, command: str) -> list[Attempt]:
    """Read the attempts of rank 0 since the last ``retry``."""
    forgiven = {job.name for job in Ledger(folder.ledger).submissions() if job.forgiven}
    attempts = read_attempts(folder.attempt(command, 0))
    return [attempt for attempt in attempts if attempt.plan not in forgiven]


def _again(rank: int) -> int:
    """Rank 0 asks for the requeue; all wait for the kill that comes with it."""
    if rank == 0 and not _requeue():
        return AGAIN
    deadline = time.monotonic() + _WAIT_TO_BE_KILLED_S
    while time.monotonic() < deadline:
        time.sleep(1.0)
    return AGAIN


def _requeue() -> bool:
    for _ in range(2):
        try:
            ask(["scontrol", "requeue", _job_id()], timeout_s=60)
        except DinoforgeError as error:
            _log.warning("scontrol requeue: %s", error)
        else:
            return True
    return False


def _job_id() -> str:
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID", "")


def _log_name(folder: SlurmFolder, name: str, rank: int) -> Path:
    return folder.logs / f"{name}_rank{rank}.out"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
