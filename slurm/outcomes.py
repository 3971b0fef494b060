"""Why an attempt did not finish its partition: pure functions over the evidence, in one table.

What SLURM reports is a hint. An exit code alone never decides: the same end is FAILED 1:0, FAILED
0:9 or COMPLETED 0:0, depending on version, accounting and who swallowed which code. So states,
steps, reasons, what the job itself recorded and the tail of its log are read together; the first
rule that matches wins.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dinoforge.errors import UsageError
from dinoforge.slurm.store.events import Attempt

__all__ = ["NOT_STARTED", "Outcome", "Row", "Verdict", "classify", "classify_exception"]


class Outcome(StrEnum):
    """How one attempt at a partition ended."""

    DONE = "done"
    MEMORY = "memory"  # host memory
    DEVICE_MEMORY = "device-memory"
    INFRASTRUCTURE = "infrastructure"  # node, network, requeue
    PREEMPTED = "preempted"
    TIME = "time"
    USER = "cancelled"
    SETUP = "set-up"  # paths, interpreter, packages: every element fails alike
    USAGE = "usage"  # one line that the user can fix
    KILLED = "killed"  # SIGKILL, cause unknown
    CRASH = "crash"  # segmentation fault, abort, a peer that died
    EXCEPTION = "exception"  # of our code or the data
    NO_MARKER = "no-marker"  # reported success, proved nothing
    NO_PROGRESS = "no-progress"  # a training that started from the same step too often
    NOT_STARTED = "not-started"  # its array element ended before this partition started
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of ``sacct -D`` or ``scontrol show job``: a run of a job, or a step of it."""

    job: str  # 76_3 or 76
    step: str = ""  # "", batch, 0, ...
    state: str = ""  # first word: CANCELLED of `CANCELLED by 0`
    by: str = ""  # user id that cancelled it, when SLURM reports one
    exit_code: int = 0
    exit_signal: int = 0
    derived_code: int = 0
    derived_signal: int = 0
    reason: str = ""
    elapsed_s: int = 0
    limit_s: int = 0  # 0: unknown
    node: str = ""


_ADVICE = {
    Outcome.MEMORY: "raise memory_gb in the profile, or lower partitions_per_element",
    Outcome.DEVICE_MEMORY: "choose a GPU with more memory, or a smaller network",
    Outcome.INFRASTRUCTURE: "wait: it is resubmitted",
    Outcome.PREEMPTED: "wait: it is resubmitted",
    Outcome.TIME: "raise minutes in the profile, or lower partitions_per_element",
    Outcome.USER: "to go on: dinoforge retry RUN",
    Outcome.SETUP: "check that nodes see the run folder and that `python` and `setup` of the "
    "profile give them the packages, then dinoforge retry RUN",
    Outcome.USAGE: "fix it, then dinoforge retry RUN",
    Outcome.KILLED: "look at the node's log; raise memory_gb if it happens again",
    Outcome.CRASH: "look at the log of the first element that failed",
    Outcome.EXCEPTION: "read the traceback: dinoforge logs RUN PARTITION",
    Outcome.NOT_STARTED: "",
}


@dataclass(frozen=True)
class Verdict:
    """Class of an end, and what was seen."""

    outcome: Outcome
    message: str = ""

    @property
    def advice(self) -> str:
        """What a person can do; the caller fills in RUN and PARTITION."""
        return _ADVICE.get(self.outcome, "read the log: dinoforge logs RUN PARTITION")


NOT_STARTED = "the array element ended before this partition started"

_OOM_LOG = re.compile(r"out of memory|oom[-_ ]?kill|exceeded memory limit", re.IGNORECASE)
_DEVICE_OOM = re.compile(r"CUDA out of memory|OutOfMemoryError: (CUDA|HIP)|CUDA error: out of mem")
_NO_MODULE = re.compile(r"\b(ModuleNotFoundError|ImportError): |command not found|No such file")
_PEER = re.compile(
    r"Connection closed by peer|NCCL.*(timeout|abort)|gloo.*timed? ?out", re.IGNORECASE
)
# As srun, bash and `slurm.node.worker` print it.
_KILLED = re.compile(r"task \d+: Killed|: +\d+ Killed\b|ended by SIGKILL")
# What dinoforge logs may quote anything, such as the name of an image; the exception is `_KILLED`.
_OWN_LINE = re.compile(
    r"^(?:\[rank \d+\] )?\d\d:\d\d:\d\d (?!.*\bended by SIGKILL$).*\n?|^error: .*\n?", re.MULTILINE
)
_USR2 = re.compile(r"User defined signal [12]")
_FAULTS = {11, 6, 7, 4, 8}  # SEGV, ABRT, BUS, ILL, FPE
_NODE_STATES = {"NODE_FAIL", "BOOT_FAIL", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "REVOKED"}


def classify_exception(error: BaseException) -> Outcome:
    """Classify an exception where it was raised."""
    if isinstance(error, UsageError):
        return Outcome.USAGE
    if _DEVICE_OOM.search(f"{type(error).__name__}: {error}"):
        return Outcome.DEVICE_MEMORY
    if isinstance(error, MemoryError):
        return Outcome.MEMORY
    return Outcome.SETUP if isinstance(error, ImportError) else Outcome.EXCEPTION


def classify(attempt: Attempt, rows: Sequence[Row] = (), log: str = "") -> Verdict:
    """Classify an attempt that did not finish its partition.

    ``rows`` are those of the last run of its job, ``log`` is the tail of its output.
    """
    if attempt.outcome == Outcome.DONE:
        text = "it reported success, but its files do not match this recipe"
        return Verdict(Outcome.NO_MARKER, text)
    if attempt.outcome:  # recorded by the job itself: better than anything SLURM reports
        return Verdict(Outcome(attempt.outcome), attempt.message)
    row = next((row for row in rows if not row.step), Row(job=""))
    log = _OWN_LINE.sub("", log)
    for is_seen, outcome, message in _rules(attempt, rows, row, log):
        if is_seen:
            return Verdict(outcome, message)
    state = f"{row.state} {row.exit_code}:{row.exit_signal} {row.reason}".strip()
    return Verdict(Outcome.UNKNOWN, state if rows else "it left no trace")


def _rules(
    attempt: Attempt, rows: Sequence[Row], row: Row, log: str
) -> Sequence[tuple[object, Outcome, str]]:
    """List what may be seen, with its class and message; ``row`` is that of the job itself.

    Order matters: a job that ran out of memory may also have been killed, one that hit its time
    limit was also cancelled.
    """
    state, signals = row.state, _signals(rows)
    # 0:125 is SLURM's own mark.
    out_of_memory = 125 in signals or any(r.state == "OUT_OF_MEMORY" for r in rows)
    oom, peer = _first(_OOM_LOG, log), _first(_PEER, log)
    # A job that ends within its grace time is no longer reported as preempted.
    early = state == "TIMEOUT" and row.elapsed_s < 0.8 * row.limit_s - 30
    signaled = "TERM" in attempt.signals or "DUE TO PREEMPTION" in log
    usr2 = 12 in signals or _USR2.search(log)
    out_of_time = state in {"TIMEOUT", "DEADLINE"} or "DUE TO TIME LIMIT" in log
    limit = f" of {row.limit_s // 60} min" if row.limit_s else ""
    by = f" by user {row.by}" if row.by else ""
    # 0:53 is SLURM's own mark.
    no_launch = row.reason == "JobLaunchFailure" or (row.exit_signal, row.exit_code) == (53, 0)
    cannot_start = "the node could not start it: no working folder, or no folder for the log"
    no_program = row.exit_code in {126, 127}
    derived = row.derived_code or row.derived_signal
    failed_at_once = state == "FAILED" and not attempt.starts
    missing = next((line for line in log.splitlines() if _NO_MODULE.search(line)), "")
    faults = _FAULTS & signals
    return (
        (_DEVICE_OOM.search(log), Outcome.DEVICE_MEMORY, "out of GPU memory"),
        (out_of_memory, Outcome.MEMORY, "out of memory"),
        (oom, Outcome.MEMORY, f"out of memory (log: {oom})"),
        (state == "PREEMPTED" or early, Outcome.PREEMPTED, "preempted"),
        (state == "COMPLETED" and signaled, Outcome.PREEMPTED, "ended after SIGTERM"),
        (state in _NODE_STATES, Outcome.INFRASTRUCTURE, f"{state} on {row.node}"),
        (usr2, Outcome.INFRASTRUCTURE, "signaled while it was starting"),
        ("DUE TO NODE FAILURE" in log, Outcome.INFRASTRUCTURE, "DUE TO NODE FAILURE"),
        (out_of_time, Outcome.TIME, f"time limit{limit} reached"),
        (state == "CANCELLED", Outcome.USER, f"cancelled{by}"),
        (no_launch, Outcome.SETUP, cannot_start),
        (missing and (no_program or failed_at_once), Outcome.SETUP, missing.strip()[-200:]),
        (no_program and not derived, Outcome.SETUP, "command not found on the node"),
        (9 in signals or _KILLED.search(log), Outcome.KILLED, "SIGKILL, cause unknown"),
        (faults, Outcome.CRASH, f"crashed (signal {min(faults, default=0)})"),
        (peer, Outcome.CRASH, f"a peer died: {peer}"),
        (rows and not attempt.starts, Outcome.NOT_STARTED, NOT_STARTED),
        (state in {"COMPLETED", "FAILED"}, Outcome.NO_MARKER, "exited without reporting a result"),
    )


def _first(pattern: re.Pattern[str], log: str) -> str:
    match = pattern.search(log)
    return match[0] if match else ""


def _signals(rows: Sequence[Row]) -> set[int]:
    """Signals that ended the job or a step, wherever SLURM or a shell recorded them."""
    seen: set[int] = set()
    for row in rows:
        seen |= {row.exit_signal, row.derived_signal}
        seen |= {code - 128 for code in (row.exit_code, row.derived_code) if 128 < code < 160}
        if row.state == "FAILED" and row.exit_code in {9, 12}:
            seen.add(row.exit_code)  # sacct keeps seven bits of a shell's 137
    return seen
