"""Submit one job exactly once, whatever sbatch reports and whoever is killed meanwhile.

A line with a unique name is recorded before sbatch, one with the id after it. When sbatch fails, or
a driver died between the two, the name is searched for before anything is tried again: a busy
controller may have accepted the job although sbatch gave up. If all of this should ever fail, the
elements themselves refuse: the first job that claims a plan owns it (`slurm.store.plans`).
"""

import logging
import time
from dataclasses import dataclass

from dinoforge.files import write_text
from dinoforge.slurm.cluster.commands import SlurmUnavailableError, accounted_name, queue
from dinoforge.slurm.cluster.executor import JobRefusedError, Request, sbatch_text, send
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import Lease
from dinoforge.slurm.store.plans import read_claim
from dinoforge.slurm.store.submissions import Submission, Submissions

__all__ = ["Submitter"]

_log = logging.getLogger(__name__)

# A controller that wakes up answers queries and accepts waiting jobs in any order: a name that is
# absent for so long, answer after answer, was never accepted.
_ABSENT_S = 12.0
_TRIES = 3


@dataclass(frozen=True)
class Submitter:
    """Submits the jobs of one run; made by the holder of the lease."""

    folder: SlurmFolder
    submissions: Submissions
    lease: Lease

    def submit(self, request: Request, entry: Submission) -> str:
        """Submit a job; returns its id.

        Raises
        ------
        JobRefusedError
            With SLURM's reason; no such job is in the queue.
        SlurmUnavailableError
            If the controller stayed silent; the name is recorded, the next driver searches for it.
        """
        script = self.folder.script(request.name)
        write_text(script, sbatch_text(request))
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        self.lease.check()
        self.submissions.intent(entry)
        for _ in range(_TRIES):
            try:
                job = send(script)
            except JobRefusedError as error:
                self.submissions.outcome("refused", request.name, text=error.reason)
                raise
            except SlurmUnavailableError as error:
                _log.warning("sbatch: %s; searching for %s", error, request.name)
                job = self._find(request.name)
            if job:
                self.submissions.outcome("submitted", request.name, job=job)
                return job
        self.submissions.outcome("absent", request.name)
        raise SlurmUnavailableError(f"sbatch failed {_TRIES} times for {request.name}")

    def settle(self) -> None:
        """Find out what became of intents that a killed driver left open."""
        for entry in self.submissions.read():
            if entry.outcome == "intent":
                job = self._find(entry.name)
                outcome = "submitted" if job else "absent"
                self.submissions.outcome(outcome, entry.name, job=job)

    def _find(self, name: str) -> str:
        """Search for a job by its unique name; "" when it is certainly not there."""
        deadline = time.monotonic() + _ABSENT_S
        while True:
            queued = [job.job for job in queue(name)]
            job = read_claim(self.folder, name) or next(iter(queued), None) or accounted_name(name)
            if job or time.monotonic() > deadline:
                self.lease.check()
                return job or ""
            time.sleep(1.0)
