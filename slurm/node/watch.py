"""Rank 0's look at the exports while its training runs: each that is kept gets its evaluation job.

A thread of its own, so that signals to the training pass at once whatever SLURM takes to answer.
Nothing that goes wrong here disturbs the training: the gate behind it finds what is missing.
"""

import logging
import signal
import threading
import time

from dinoforge.config import load_config
from dinoforge.slurm.cluster.commands import queue
from dinoforge.slurm.evaluations import EvaluationsDriver, asked_evaluations
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.requests import Requests
from dinoforge.slurm.store.evaluations import Kept
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.slurm.store.ledger import Ledger
from dinoforge.slurm.submission import Submitter

__all__ = ["Watch", "submit_missing"]

_log = logging.getLogger(__name__)

EVERY_S = 5.0
_AGAIN_AFTER_S = 60.0  # between two looks for evaluations that failed
_MOST_PAUSE_S = 900.0
_PATIENCE_S = 30.0


class Watch:
    """Looks for new exports until it is told to end."""

    def __init__(self, folder: SlurmFolder) -> None:
        self._folder = folder
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._looked = -_AGAIN_AFTER_S

    def start(self) -> "Watch":
        """Begin, where nodes may submit and anything can be asked for."""
        if load_config(Profile, self._folder.profile).nodes_may_submit:
            self._thread.start()
        return self

    def end(self, *, wait_s: float) -> None:
        """End; what was being submitted is given ``wait_s`` seconds."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _look_on(self) -> None:
        # They are for the thread that passes them on.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))
        pause = EVERY_S
        while not self._end.wait(pause):
            try:
                if self._is_time():
                    submit_missing(self._folder)
                    pause = EVERY_S
            except LeaseBusyError:
                pause = EVERY_S  # who holds it may submit the same
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                pause = min(4 * pause, _MOST_PAUSE_S)
                _log.warning("no evaluation could be submitted (%s); again in %d s", error, pause)

    def _is_time(self) -> bool:
        """Tell whether there is an export that nobody submitted, or one that may have failed."""
        run = self._folder.run
        asked = asked_evaluations(self._folder)
        if not asked:
            return False
        missing = {
            (evaluation.stage, step)
            for step in Kept.of(run).steps(run)
            for evaluation in asked
            if not evaluation.is_done(step)
        }
        sent = {
            (entry.stage, entry.step)
            for entry in Ledger(self._folder.ledger).submissions()
            if not entry.forgiven
        }
        waited = time.monotonic() - self._looked
        is_time = bool(missing - sent) or (bool(missing) and waited > _AGAIN_AFTER_S)
        if is_time:
            self._looked = time.monotonic()
        return is_time


def submit_missing(folder: SlurmFolder) -> list[str]:
    """Submit the evaluations that are due now; returns the ids of their jobs.

    Raises
    ------
    LeaseBusyError
        If another driver is at work: it may do the same.
    SlurmUnavailableError
        If SLURM gave no answer.
    UsageError
        If it refused.
    """
    with hold_lease(folder.lease, wait_s=EVERY_S) as lease:
        if folder.is_cancelled():
            return []
        submitter = Submitter(folder, Ledger(folder.ledger), lease)
        submitter.settle()
        requests = Requests(folder, folder.read_launch(), load_config(Profile, folder.profile))
        driver = EvaluationsDriver(folder=folder, requests=requests, submitter=submitter)
        queued = queue(requests.launch.job_prefix, patience_s=_PATIENCE_S)
        missing = driver.missing(queued)
        return driver.submit(missing.due, others=len(queued))
