"""What the jobs of a run look like: names, programs, logs, environment."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dinoforge
from dinoforge.slurm.cluster.executor import Request
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.layout import Launch, SlurmFolder

__all__ = ["Jobs", "command_job", "one_process"]


def one_process(job: Job) -> Job:
    """Make a job a single process, whatever ``default`` of the profile gives trainings."""
    return replace(job, nodes=1, tasks_per_node=1)


def command_job(profile: Profile, command: str, device: str) -> Job:
    """Return what a training (N ranks) or an evaluation (one process) asks for."""
    job = profile.job(command, "cpu" if device == "cpu" else "gpu")
    job = replace(job, partitions_per_element=1)
    return job if command == "train" else one_process(job)


@dataclass(frozen=True)
class Jobs:
    """Makes the job requests of one run."""

    folder: SlurmFolder
    launch: Launch
    profile: Profile

    def name(self, stage: str, chunk: int | str) -> str:
        """Make a name that no other job has: ``df-RUN-STAGE-CHUNK-NONCE``."""
        return f"{self.launch.job_prefix}{stage}-{chunk}-{secrets.token_hex(4)}"

    def array(self, name: str, job: Job, elements: int) -> Request:
        """Request an array: each element is one process with its part of a plan."""
        log = str(self.folder.log(name, "%a"))
        request = self._request(name, one_process(job), "worker", name)
        return replace(request, log=log, elements=elements)

    def ranks(self, name: str, job: Job) -> Request:
        """Request one process per task, over all nodes of the job."""
        return replace(
            self._request(name, job, "rank", name),
            log=str(self.folder.rank_log(name, "%t")),
            ranks=True,
            signal_before_s=self.profile.signal_before_s,
        )

    def gate(self, name: str, after: Sequence[str]) -> Request:
        """Advance the run once all of ``after`` have ended, however they did."""
        request = self._request(name, self.profile.job("gate", "gate"), "gate")
        return replace(request, after=tuple(after))

    def probe(self, name: str, job: Job, token: str, device: str) -> Request:
        """Read a token in the run folder, check recipe and device, on a node of this kind."""
        return self._request(name, job, "probe", name, token, device)

    def _request(self, name: str, job: Job, program: str, *arguments: str) -> Request:
        # Its code first, then what the submitter could import.
        code = self.launch.snapshot or str(Path(dinoforge.__file__).resolve().parent.parent)
        path = [code, *(entry for entry in self.launch.python_path if entry != code)]
        module = f"dinoforge.slurm.node.{program}"
        return Request(
            name=name,
            job=job,
            command=["-m", module, str(self.folder.run), *arguments],
            log=str(self.folder.log(name)),
            environment={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"},
            folder=self.launch.folder,
            python=self.launch.python,
        )
