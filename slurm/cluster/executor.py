"""Batch scripts: submitit turns parameters into text.

Changed from submitit: the command is one of our programs with a plan file, not one pickle per
element; the script keeps its own job name; what became of it is recorded by `slurm.jobs`.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.slurm.slurm import _make_sbatch_string

from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import SlurmRefusedError, SlurmUnavailableError, ask
from dinoforge.slurm.profile import Job

__all__ = ["JobRefusedError", "Request", "job_id", "sbatch_text", "send"]

_QUEUE_FULL = re.compile(
    r"SubmitJobLimit|submit limit|MaxSubmitJob|MaxJobCount|too many jobs", re.IGNORECASE
)
# With --parsable; wrappers of sites print lines of their own, and not all know the option.
_SUBMITTED = re.compile(r"^Submitted batch job (\d+)(?: on cluster \S+)?\s*$", re.MULTILINE)
_PARSABLE = re.compile(r"^(\d+)(;\S+)?\s*$", re.MULTILINE)
# Keys of a profile that have the same name in submitit, which leaves out what is None.
_KEYS = ("partition", "account", "qos", "constraint", "nodes", "cpus_per_task", "array_parallelism")


class JobRefusedError(UsageError):
    """SLURM refused a job, for the ``reason`` that it printed."""

    def __init__(self, reason: str, script: Path) -> None:
        do = "fix the profile, then rerun the command"
        super().__init__(what=f"SLURM refused a job: {reason}", where=str(script), do=do)
        self.reason = reason
        # The user has too many jobs in the queue: it may be accepted later.
        self.is_queue_full = _QUEUE_FULL.search(reason) is not None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job to be submitted."""

    name: str
    job: Job
    command: Sequence[str]  # program and arguments after the interpreter
    log: str  # sbatch's pattern of the output file, which writes % as %%
    environment: dict[str, str]
    folder: str  # working folder
    python: str
    elements: int | None = None  # array size; None for a single job
    after: Sequence[str] = ()  # ids of jobs that must have ended, successfully or not
    ranks: bool = False  # tasks on several nodes, under srun
    signal_before_s: int = 90


def sbatch_text(request: Request) -> str:
    """Write the batch script of a request."""
    job = request.job
    options = {key: value for key, value in job.sbatch.items() if value not in (None, False)}
    options |= {"chdir": request.folder, "open-mode": "append", "requeue": True}
    options["output"] = request.log.replace("%t", "batch") if request.ranks else request.log
    if request.after:
        options["dependency"] = "afterany:" + ":".join(request.after)
        options["kill-on-invalid-dep"] = "yes"
    exports = [f"export {key}={shlex.quote(value)}" for key, value in request.environment.items()]
    # USR2 before Python has a handler would end the job for good; -P keeps the working folder from
    # shadowing the snapshot.
    signals = "block-signal=USR1,USR2,TERM" if request.ranks else "ignore-signal=USR2"
    python = job.python or shlex.quote(request.python)
    if not job.python and "=" in request.python:  # else env reads it as NAME=VALUE
        python = f'bash -c \'exec "$0" "$@"\' {python}'
    program = shlex.join(["-P", "-u", *request.command])
    # One dead rank ends the others, instead of a collective that waits for its timeout.
    srun = ["--output", request.log, "--open-mode=append", "--kill-on-bad-exit=1"]
    return _make_sbatch_string(
        command=f"env --{signals} {python} {program}",
        folder=Path(request.log).parent,
        job_name=request.name,
        time=job.minutes,
        ntasks_per_node=job.tasks_per_node,
        gpus_per_node=job.gpus_per_node or None,
        mem=f"{round(job.memory_gb * 1000)}M",
        map_count=request.elements,
        signal_delay_s=request.signal_before_s,
        stderr_to_stdout=True,
        setup=[*job.setup, "", *exports],
        use_srun=request.ranks,
        srun_args=[*srun, f"--cpus-per-task={job.cpus_per_task}"],
        additional_parameters=options,
        **{"wckey": None} | {key: getattr(job, key) for key in _KEYS},
    )


def send(script: Path) -> str:
    """Submit a batch script; returns the job id.

    Raises `JobRefusedError`, or `SlurmUnavailableError`: it is unknown whether it was submitted.
    """
    try:
        answer = ask(["sbatch", "--parsable", str(script)])
    except SlurmRefusedError as error:
        raise JobRefusedError(str(error), script) from error
    if job := job_id(answer):
        return job
    raise SlurmUnavailableError(f"sbatch answered {answer.strip()!r}")


def job_id(answer: str) -> str | None:
    """Find the id of the submitted job in what sbatch printed, on a line of its own.

    None if several numbers could be it: the job is searched by its name then.
    """
    lines = _PARSABLE.findall(answer)
    ids = {job for job, cluster in lines if cluster} or {job for job, _ in lines}
    ids.update(_SUBMITTED.findall(answer))
    return ids.pop() if len(ids) == 1 else None
