"""How the jobs of a run look: names, programs, logs, environment; nothing is sent here."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dinoforge
from dinoforge.slurm.cluster.executor import Request
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.layout import Launch, SlurmFolder

__all__ = ["Requests"]


@dataclass(frozen=True)
class Requests:
    """Makes the requests of one run."""

    folder: SlurmFolder
    launch: Launch
    profile: Profile

    def name(self, stage: str, chunk: int | str) -> str:
        """Make a name that no other job has: ``df-RUN-STAGE-CHUNK-NONCE``."""
        return f"{self.launch.job_prefix}{stage}-{chunk}-{secrets.token_hex(4)}"

    def array(self, name: str, job: Job, elements: int) -> Request:
        """Partitions of a stage: each element is one process."""
        request = self._request(name, _alone(job), "dinoforge.slurm.node.worker", name)
        return replace(request, log=str(self.folder.log(name, "%a")), elements=elements)

    def gate(self, name: str, after: Sequence[str]) -> Request:
        """Read markers and go on, when all of ``after`` have ended however they did."""
        job = self.profile.job("gate", "gate")
        return replace(self._request(name, job, "dinoforge.slurm.node.gate"), after=tuple(after))

    def probe(self, name: str, job: Job, token: str) -> Request:
        """Read a token in the run folder and check the recipe, on a node of this kind."""
        short = replace(_alone(job), minutes=1, gpus_per_node=0, cpus_per_task=1)
        small = replace(short, memory_gb=min(job.memory_gb, 2.0))
        return self._request(name, small, "dinoforge.slurm.node.probe", name, token)

    def ranks(self, name: str, job: Job, command: str) -> Request:
        """Run one process a task, over all nodes of the job."""
        limits = [f"{job.memory_gb:g}", str(job.minutes)]
        request = self._request(name, job, "dinoforge.slurm.node.rank", name, command, *limits)
        return replace(
            request,
            log=str(self.folder.logs / f"{name}_rank%t.out"),
            ranks=True,
            signal_before_s=self.profile.signal_before_s,
        )

    def evaluation(self, name: str, job: Job, recipe: str, step: int) -> Request:
        """Measure one export of a training: one process."""
        limits = [f"{job.memory_gb:g}", str(job.minutes)]
        return self._request(
            name, _alone(job), "dinoforge.slurm.node.measure", name, recipe, str(step), *limits
        )

    def _request(self, name: str, job: Job, module: str, *words: str) -> Request:
        return Request(
            name=name,
            job=job,
            command=["-m", module, str(self.folder.run), *words],
            log=str(self.folder.log(name)),
            environment=self._environment(),
            folder=self.launch.folder,
            python=self.launch.python,
        )

    def _environment(self) -> dict[str, str]:
        """Variables of every job: its code first, then what the submitter could import."""
        code = self.launch.snapshot or str(Path(dinoforge.__file__).resolve().parent.parent)
        path = [code, *(entry for entry in self.launch.python_path if entry != code)]
        return {"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"}


def _alone(job: Job) -> Job:
    """One process, whatever ``default`` says of trainings."""
    return replace(job, nodes=1, tasks_per_node=1)
