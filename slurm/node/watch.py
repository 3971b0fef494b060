"""Watch the exports of a training while it runs: have each that is kept evaluated.

Runs in a thread of rank 0, so that signals reach the training at once however long SLURM takes to
answer. Nothing that goes wrong here disturbs the training: the gate behind it submits what is
missing.
"""

import logging
import signal
import threading
import time

from dinoforge.slurm.driver import submit_evaluations
from dinoforge.slurm.store.evaluations import Evaluation, kept_exports
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import LeaseBusyError

__all__ = ["watch_exports"]

_log = logging.getLogger(__name__)

EVERY_S = 5.0
_AGAIN_AFTER_S = 60.0  # between two checks for evaluations that failed
_MAX_PAUSE_S = 900.0


def watch_exports(folder: SlurmFolder, end: threading.Event) -> None:
    """Submit evaluations of new exports until ``end`` is set."""
    # Signals are for the thread that forwards them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))
    pause, seen, checked = EVERY_S, set[tuple[str, int]](), 0.0
    while not end.wait(pause):
        pause = min(4 * pause, _MAX_PAUSE_S)
        try:
            missing = _missing(folder)
            waited = time.monotonic() - checked
            if missing - seen or (missing and waited > _AGAIN_AFTER_S):
                submit_evaluations(folder.run, wait_s=EVERY_S)
                seen, checked = missing, time.monotonic()
            pause = EVERY_S
        except LeaseBusyError:
            pause = EVERY_S  # its holder may submit the same
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            _log.warning("no evaluation could be submitted (%s); again in %d s", error, pause)


def _missing(folder: SlurmFolder) -> set[tuple[str, int]]:
    """List the evaluations of kept exports that are not done."""
    names = folder.read_launch().evaluations
    return {
        (name, step)
        for step in (kept_exports(folder.run) if names else [])
        for name in names
        if not Evaluation(folder.run, name).is_done(step)
    }
