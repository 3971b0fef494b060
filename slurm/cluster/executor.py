"""sbatch through submitit: it turns parameters into the text and reads the id from the answer.

What we change: the command is one of our programs with a plan file, not a pickle an element; the
text keeps the name of its job; and what came of sbatch is for the ledger to say.
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
    """SLURM refused a job.

    Parameters
    ----------
    reason : str
        SLURM's text.
    script : Path
        The batch script.
    """

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
    """One job as it is to be submitted."""

    name: str
    job: Job
    command: Sequence[str]  # program and arguments after the interpreter
    log: str  # sbatch's pattern of the output file
    environment: dict[str, str]
    folder: str  # working folder
    python: str
    elements: int | None = None  # array size; None for a single job
    after: Sequence[str] = ()  # ids that must have ended, however
    ranks: bool = False  # tasks on several nodes, under srun
    signal_before_s: int = 90


class _Executor(submitit.SlurmExecutor):
    """Writes the text of our programs; submitit's own way would be one pickle an element."""

    @classmethod
    def affinity(cls) -> int:
        # A dry run writes the text on machines without SLURM too.
        return 2

    def text(self, command: str, elements: int | None) -> str:
        """Text of the batch script."""
        if elements is not None:
            self.parameters["map_count"] = elements
        return self._make_submission_file_text(command, uid="")

    def job_id(self, answer: str) -> str:
        """Id in sbatch's answer."""
        return self._get_job_id_from_submission_command(answer)


def sbatch_text(request: Request) -> str:
    """Write the batch script of a request."""
    job = request.job
    further = {key: value for key, value in job.sbatch.items() if value not in (None, False)}
    further |= {
        "chdir": request.folder,
        "open-mode": "append",
        "output": request.log.replace("%t", "batch") if request.ranks else request.log,
        "requeue": True,
    }
    if request.after:
        further |= {"dependency": "afterany:" + ":".join(request.after)}
        further |= {"kill-on-invalid-dep": "yes"}
    executor = _Executor(folder=Path(request.log).parent)
    given = {
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "gpus_per_node": job.gpus_per_node or None,
    }
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
        setup=[*job.setup, "", *_exports(request.environment)],
        use_srun=request.ranks,
        srun_args=_srun(request) if request.ranks else None,
        additional_parameters=further,
        **{key: value for key, value in given.items() if value is not None},
    )
    return executor.text(_command(request), request.elements)


def _exports(environment: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def _srun(request: Request) -> list[str]:
    log = ["--output", request.log, "--open-mode=append"]
    # One rank that died ends the others, instead of a collective that waits for its time-out.
    return [*log, "--kill-on-bad-exit=1", f"--cpus-per-task={request.job.cpus_per_task}"]


def _command(request: Request) -> str:
    # USR2 before Python has a handler would kill the job for good; -P keeps the working folder from
    # winning over the snapshot.
    python = request.job.python or shlex.quote(request.python)
    program = shlex.join(["-P", "-u", *request.command])
    ignored = "USR1,USR2,TERM" if request.ranks else "USR2"
    return f"env --{'block' if request.ranks else 'ignore'}-signal={ignored} {python} {program}"


def send(script: Path) -> str:
    """Hand a script to sbatch; returns the id.

    Raises
    ------
    SlurmUnavailableError
        If nobody knows whether it was submitted.
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
