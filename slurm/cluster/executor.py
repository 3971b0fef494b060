"""Batch scripts through submitit, which turns parameters into text and reads sbatch's answer.

Changed from submitit: the command is one of our programs with a plan file, not one pickle per
element; the script keeps its own job name; what became of it is recorded by `slurm.submission`.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import SlurmRefusedError, SlurmUnavailableError, ask
from dinoforge.slurm.profile import Job

__all__ = ["JobRefusedError", "Request", "sbatch_text", "send"]

_QUEUE_FULL = re.compile(
    r"SubmitJobLimit|submit limit|MaxSubmitJob|MaxJobCount|too many jobs", re.IGNORECASE
)


class JobRefusedError(UsageError):
    """SLURM refused a job, for the ``reason`` that it printed."""

    def __init__(self, reason: str, script: Path) -> None:
        super().__init__(
            what=f"SLURM refused a job: {reason}",
            where=str(script),
            do="fix the profile, then rerun the command",
        )
        self.reason = reason

    @property
    def is_queue_full(self) -> bool:
        """Whether the user has too many jobs in the queue: the job may be accepted later."""
        return _QUEUE_FULL.search(self.reason) is not None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job to be submitted."""

    name: str
    job: Job
    command: Sequence[str]  # program and arguments after the interpreter
    log: str  # sbatch's pattern of the output file
    environment: dict[str, str]
    folder: str  # working folder
    python: str
    elements: int | None = None  # array size; None for a single job
    after: Sequence[str] = ()  # ids of jobs that must have ended, successfully or not
    ranks: bool = False  # tasks on several nodes, under srun
    signal_before_s: int = 90


class _Executor(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        return 2  # a dry run writes scripts on machines without SLURM, too

    def text(self, command: str) -> str:
        return self._make_submission_file_text(command, uid="")

    def job_id(self, answer: str) -> str:
        return self._get_job_id_from_submission_command(answer)


def sbatch_text(request: Request) -> str:
    """Write the batch script of a request."""
    job = request.job
    options = {key: value for key, value in job.sbatch.items() if value not in (None, False)}
    options |= {
        "chdir": request.folder,
        "open-mode": "append",
        "output": request.log.replace("%t", "batch") if request.ranks else request.log,
        "requeue": True,
    }
    if request.after:
        options |= {"dependency": "afterany:" + ":".join(request.after)}
        options |= {"kill-on-invalid-dep": "yes"}
    optional = {
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "gpus_per_node": job.gpus_per_node or None,
    }
    executor = _Executor(folder=Path(request.log).parent)
    executor.update_parameters(
        job_name=request.name,
        time=job.minutes,
        nodes=job.nodes,
        ntasks_per_node=job.tasks_per_node,
        cpus_per_task=job.cpus_per_task,
        mem=f"{round(job.memory_gb * 1000)}M",
        array_parallelism=job.array_parallelism,
        signal_delay_s=request.signal_before_s,
        wckey=None,
        stderr_to_stdout=True,
        setup=[
            *job.setup,
            "",
            *(f"export {key}={shlex.quote(value)}" for key, value in request.environment.items()),
        ],
        use_srun=request.ranks,
        # One dead rank ends the others, instead of a collective that waits for its timeout.
        srun_args=[
            "--output",
            request.log,
            "--open-mode=append",
            "--kill-on-bad-exit=1",
            f"--cpus-per-task={job.cpus_per_task}",
        ],
        additional_parameters=options,
        **{key: value for key, value in optional.items() if value is not None},
    )
    if request.elements is not None:
        executor.parameters["map_count"] = request.elements
    # USR2 before Python has a handler would end the job for good; -P keeps the working folder from
    # shadowing the snapshot.
    python = job.python or shlex.quote(request.python)
    program = shlex.join(["-P", "-u", *request.command])
    signals = "block-signal=USR1,USR2,TERM" if request.ranks else "ignore-signal=USR2"
    return executor.text(f"env --{signals} {python} {program}")


def send(script: Path) -> str:
    """Submit a batch script; returns the job id.

    Raises
    ------
    SlurmUnavailableError
        If it is unknown whether the job was submitted.
    JobRefusedError
        With SLURM's reason.
    """
    try:
        answer = ask(["sbatch", str(script)])
    except SlurmRefusedError as error:
        raise JobRefusedError(str(error), script) from error
    try:
        return _Executor(folder=script.parent).job_id(answer)
    except submitit.core.utils.FailedSubmissionError as error:
        raise SlurmUnavailableError(f"sbatch answered {answer.strip()!r}") from error
