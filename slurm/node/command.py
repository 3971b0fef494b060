"""Run a ``dinoforge`` command as a child of a torch-free parent inside a job."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinoforge.errors import Interrupted, UsageError
from dinoforge.slurm.outcomes import Outcome, Verdict
from dinoforge.slurm.store.logs import last_error

__all__ = ["blocked", "classify_exit", "start_command"]


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Block signals for a ``with`` block; a child that is started inside never unblocks them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def start_command(arguments: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
    """Start ``dinoforge ARGUMENTS``; the working folder must not shadow the snapshot."""
    variables = os.environ | environment | {"PYTHONSAFEPATH": "1"}
    return subprocess.Popen([sys.executable, "-m", "dinoforge", *arguments], env=variables)


def classify_exit(code: int, log: Path, start: int, *, otherwise: str) -> Verdict:
    """Classify the end of a command by its exit code, negative for a signal.

    The message is the error that it printed into ``log`` behind byte ``start``, or ``otherwise``.
    """
    if code == 0:
        return Verdict(Outcome.DONE, "")
    if code < 0:
        return Verdict(Outcome.KILLED, f"ended by {signal.Signals(-code).name}")
    if code == Interrupted.exit_code:
        return Verdict(Outcome.PREEMPTED, "it saved and asks to be restarted")
    outcome = Outcome.USAGE if code == UsageError.exit_code else Outcome.EXCEPTION
    return Verdict(outcome, last_error(log, start) or otherwise)
