"""Run SLURM's commands: clean environment, timeouts, two kinds of failure; read their answers."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dinoforge.errors import DinoforgeError, UsageError
from dinoforge.slurm.outcomes import Row

__all__ = [
    "Queued",
    "SlurmError",
    "SlurmRefusedError",
    "SlurmUnavailableError",
    "accounted",
    "accounted_name",
    "ask",
    "cancel",
    "clean_environment",
    "has_slurm",
    "need_slurm",
    "one_line",
    "parse_accounting",
    "parse_details",
    "parse_queue",
    "queue",
    "seconds",
    "shown",
]

_NO_ANSWER = re.compile(
    r"Socket timed out|Unable to contact slurm|Connection (refused|reset|timed out)|Zero Bytes"
    r"|Transport endpoint|communication (failure|connection)|temporarily un(able|available)"
    r"|slurmdbd.*(not running|unable)|Slurm backup controller in standby|Broken pipe",
    re.IGNORECASE,
)

# Variables that belong to a job, unlike those that say where the controller is.
_DROPPED = re.compile(
    r"^(?!SLURM_(CONF|CLUSTERS|CONF_SERVER|JWT)$)"
    r"((SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SINFO|SCONTROL|PMI|PMIX|SUBMITIT)_"
    r"|(CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK)$)"
)


class SlurmError(DinoforgeError):
    """A SLURM command failed; the message is SLURM's own, in one line."""


class SlurmUnavailableError(SlurmError):
    """The controller (or the accounting) did not answer: nothing is known, ask again."""


class SlurmRefusedError(SlurmError):
    """SLURM rejected the command."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job, or an array element, that has not ended."""

    job: str  # id of the job, or of the whole array
    element: int | None
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str


_BAR = "\x1f"  # the ASCII unit separator: no name contains it
_QUEUE = ("%F", "%K", "%T", "%j", "%r")  # squeue: id, array element, state, name, reason


def has_slurm() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def need_slurm() -> None:
    """Raise `UsageError` on a machine without SLURM commands."""
    if not has_slurm():
        do = "run the command on a login node of the cluster, or use --on local:N"
        raise UsageError(what="no sbatch on this machine", where="--on slurm", do=do)


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Drop the variables of the job that this process may be part of.

    A job submitted from inside a job would inherit its memory, tasks and binding.
    """
    return {name: value for name, value in environment.items() if not _DROPPED.search(name)}


def ask(words: Sequence[str], *, timeout_s: float = 180.0, patience_s: float = 0.0) -> str:
    """Run one command, again for ``patience_s`` while there is no answer; returns its output.

    Raises `SlurmUnavailableError` if it did not answer or does not exist here, `SlurmRefusedError`
    if SLURM rejected it. SLURM's own MessageTimeout is 10 s by default, 100 s on large clusters.
    """
    deadline, pause = time.monotonic() + patience_s, 0.5
    while True:
        try:
            return _run(words, timeout_s)
        except SlurmUnavailableError:
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def _run(words: Sequence[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=timeout_s,
            env=clean_environment(),
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmUnavailableError(f"no {words[0]} on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailableError(f"{words[0]} did not answer in {timeout_s:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    text = (done.stderr or done.stdout).strip() or f"{words[0]} exited with {done.returncode}"
    if _NO_ANSWER.search(text) or done.returncode < 0:
        raise SlurmUnavailableError(one_line(text))
    raise SlurmRefusedError(one_line(text))


def one_line(text: str) -> str:
    """Join the lines of an error message of SLURM, without its prefixes."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line)


def queue(prefix: str, *, patience_s: float = 600.0) -> list[Queued]:
    """List this user's jobs whose names start with ``prefix``, one row per array element."""
    words = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", _BAR.join(_QUEUE)]
    jobs = parse_queue(ask(words, patience_s=patience_s))
    return [job for job in jobs if job.name.startswith(prefix)]


def parse_queue(text: str) -> Iterator[Queued]:
    """Parse what ``squeue`` prints, less the lines of others: banners, names of clusters."""
    for line in text.splitlines():
        values = line.strip(" ").split(_BAR)
        if len(values) == len(_QUEUE) and values[0].isdigit():
            job, element, state, name, reason = values
            number = int(element) if element.isdigit() else None
            yield Queued(job=job, element=number, name=name, state=state, reason=reason)


def cancel(jobs: Iterable[str], *, kill: bool = False) -> None:
    """Cancel jobs; ``kill`` sends SIGKILL at once to those that run."""
    if names := sorted(set(jobs)):
        try:
            ask(["scancel", *(["--signal=KILL"] if kill else []), *names], patience_s=120)
        except SlurmRefusedError as error:
            if "Invalid job id" not in str(error) and "already completing" not in str(error):
                raise


_COLUMNS = "JobID,State,ExitCode,DerivedExitCode,Reason,ElapsedRaw,TimelimitRaw,NodeList"
_PARSABLE = ("-n", "--parsable2", f"--delimiter={_BAR}")
_JOB_ID = re.compile(r"\d+(?:_(?:\d+|\[[^\]]*\]))?(?:\+\d+)?(?:\.\w+)?")


def accounted(jobs: Sequence[str]) -> dict[str, list[Row]]:
    """Read jobs from the accounting: rows of the last run of each element, job row first.

    Empty where accounting is off or does not answer; a missing row never means that a job is gone.
    """
    words = ["sacct", "-D", *_PARSABLE, "-o", _COLUMNS, "-j", ",".join(jobs)]
    try:
        return parse_accounting(ask(words, timeout_s=60))
    except SlurmError:
        return {}


def accounted_name(name: str) -> str | None:
    """Find the id of a job by its name in the accounting; None if it is not there."""
    words = ["sacct", "-X", *_PARSABLE, "-o", "JobID,JobName", "-S", "now-14days", "--name", name]
    try:
        lines = ask(words, timeout_s=60).splitlines()
    except SlurmError:
        return None
    ids = [job for job, _, called in (line.partition(_BAR) for line in lines) if called == name]
    return re.split(r"\D", ids[-1])[0] or None if ids else None


def parse_accounting(text: str) -> dict[str, list[Row]]:
    """Parse ``sacct -D``; of a job that was requeued, the last run counts."""
    rows: dict[str, list[Row]] = {}
    # A reason may go on in the next line: a row ends where another one or a banner begins.
    for part in re.split(rf"\n(?={_JOB_ID.pattern}{_BAR})", text):
        values = dict(zip(_COLUMNS.split(","), part.split(_BAR), strict=False))
        if "NodeList" in values and _JOB_ID.fullmatch(values["JobID"]):  # else a banner
            values["NodeList"] = values["NodeList"].split("\n")[0]
            values["Reason"] = " ".join(values["Reason"].split())
            row = _row(values)
            earlier = rows.get(row.job, []) if row.step else []
            rows[row.job] = [*earlier, row]
    return rows


def shown(job: str) -> list[Row]:
    """Read one job from the controller, which forgets it minutes after its end: no row then."""
    try:
        return parse_details(ask(["scontrol", "-o", "show", "job", job], timeout_s=60))
    except SlurmError:
        return []


# The ids, the name, all other fields, and what people wrote. A name ends where the user follows;
# a comment with a line break goes on in the next line.
_DETAILS = re.compile(
    r"(?P<ids>JobId=\d+ (?:\w+=\S* )*?)"
    r"JobName=(?:.*?(?= UserId=\S+\(\d+\) GroupId=)|.*?(?= UserId=)|\S*)(?P<fields>.*?)"
    r"(?: (?:Command|WorkDir|\w*Comment|Std(?:Err|In|Out))=.*)?"
)


def parse_details(text: str) -> list[Row]:
    """Parse ``scontrol -o show job``: one row per job, its first; free text is not read."""
    rows: dict[str, Row] = {}
    for match in filter(None, map(_DETAILS.fullmatch, text.splitlines())):
        values: dict[str, str] = {}
        for name, value in re.findall(r"(\w+)=(\S*)", match["ids"] + match["fields"]):
            values.setdefault(name, value)
        array, element = values.get("ArrayJobId"), values.get("ArrayTaskId")
        values["JobID"] = f"{array}_{element}" if array and element else values["JobId"]
        values["State"] = values.get("JobState", "")
        values["ElapsedRaw"] = str(seconds(values.get("RunTime", "")))
        values["TimelimitRaw"] = str(seconds(values.get("TimeLimit", "")) // 60)
        rows.setdefault(values["JobID"], _row(values))
    return list(rows.values())


def _row(values: Mapping[str, str]) -> Row:
    job, _, step = values["JobID"].partition(".")
    state, _, by = values["State"].partition(" ")
    code, _, signal = values.get("ExitCode", "").partition(":")
    derived_code, _, derived_signal = values.get("DerivedExitCode", "").partition(":")
    return Row(
        job=job,
        step=step,
        state=state.rstrip("+"),
        by=by.removeprefix("by ").strip(),
        exit_code=_whole(code),
        exit_signal=_whole(signal),
        derived_code=_whole(derived_code),
        derived_signal=_whole(derived_signal),
        reason=values.get("Reason", ""),
        elapsed_s=_whole(values["ElapsedRaw"]),
        limit_s=60 * _whole(values["TimelimitRaw"]),
        node=values.get("NodeList", ""),
    )


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0


def seconds(text: str) -> int:
    """Read a duration of SLURM, ``1-02:03:04`` or ``30:00``; 0 for UNLIMITED."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return 0
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + rest
