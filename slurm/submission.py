"""Submit one job exactly once, whatever sbatch says and whoever is killed meanwhile.

A line with a unique name goes to the ledger before sbatch, one with the id after it. When sbatch
fails, or a driver died between the two, the name is looked for before anything is tried again: a
controller that was busy may have taken the job although sbatch gave up. If all of this should ever
fail, the elements themselves refuse: the first job that claims a plan owns it
(`slurm.store.claims`).
"""

import logging
import time
from dataclasses import dataclass

from dinoforge.files import write_text
from dinoforge.slurm.cluster.commands import (
    SlurmUnavailableError,
    accounted_name,
    queue,
)
from dinoforge.slurm.cluster.executor import JobRefusedError, Request, sbatch_text, send
from dinoforge.slurm.store.claims import read_claim
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import Lease
from dinoforge.slurm.store.ledger import Ledger, Submission

__all__ = ["Submitter"]

_log = logging.getLogger(__name__)

# A controller that wakes up answers questions and takes the jobs that wait at its door in any
# order: a name that is absent for so long, answer after answer, was never taken.
_ABSENT_S = 12.0
_TRIES = 3


@dataclass(frozen=True)
class Submitter:
    """Submits the jobs of one run; made by the holder of the lease."""

    folder: SlurmFolder
    ledger: Ledger
    lease: Lease

    def submit(self, request: Request, entry: Submission) -> str:
        """Submit a job; returns its id.

        Raises
        ------
        JobRefusedError
            With SLURM's reason; no such job is in the queue.
        SlurmUnavailableError
            If the controller stayed silent; the ledger knows the name, the next driver looks.
        """
        script = self.folder.script(request.name)
        write_text(script, sbatch_text(request))
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        self.lease.check()
        self.ledger.intent(entry)
        for _ in range(_TRIES):
            try:
                job = send(script)
            except JobRefusedError as error:
                self.ledger.outcome("refused", request.name, text=error.reason)
                raise
            except SlurmUnavailableError as error:
                _log.warning("sbatch: %s; looking for %s", error, request.name)
                found = self.find(request.name)
                self.lease.check()
                if found is None:
                    continue
                job = found
            self.ledger.outcome("submitted", request.name, job=job)
            return job
        self.ledger.outcome("absent", request.name)
        raise SlurmUnavailableError(f"sbatch failed {_TRIES} times for {request.name}")

    def find(self, name: str) -> str | None:
        """Look for a job by its unique name; None when it is surely not there."""
        deadline = time.monotonic() + _ABSENT_S
        while True:
            owner = read_claim(self.folder, name)
            if owner:
                return owner
            for job in queue(name):
                return job.job
            found = accounted_name(name)
            if found:
                return found
            if time.monotonic() > deadline:
                return None
            time.sleep(1.0)

    def settle(self) -> None:
        """Find out what became of intents that a killed driver left open."""
        for job in self.ledger.submissions():
            if job.outcome != "intent":
                continue
            found = self.find(job.name)
            self.lease.check()
            if found is None:
                self.ledger.outcome("absent", job.name)
            else:
                self.ledger.outcome("submitted", job.name, job=found)
