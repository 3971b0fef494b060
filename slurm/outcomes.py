"""Why an attempt did not finish its partition: pure functions over the evidence, in one table.

What SLURM reports is a hint. An exit code alone never decides: the same end is FAILED 1:0, FAILED
0:9 or COMPLETED 0:0, depending on version, accounting and who swallowed which code. So states,
steps, reasons, what the job itself recorded and the tail of its log are read together; the first
rule that matches wins.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dinoforge.errors import UsageError

__all__ = ["NOT_STARTED", "Evidence", "Outcome", "Row", "Verdict", "classify", "classify_exception"]


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


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything known about one attempt."""

    started: bool = True  # it recorded its own start
    outcome: str = ""  # what it recorded at its end
    message: str = ""
    signals: Sequence[str] = ()  # signals that it recorded
    rows: Sequence[Row] = ()  # of the last run of the element, job row first
    log: str = ""  # tail of the element's log

    @property
    def job_row(self) -> Row:
        """The row of the job itself."""
        return next((row for row in self.rows if not row.step), Row(job=""))

    @property
    def fatal_signals(self) -> set[int]:
        """Signals that ended the job or a step, wherever SLURM or a shell recorded them."""
        seen: set[int] = set()
        for row in self.rows:
            seen |= {row.exit_signal, row.derived_signal}
            seen |= {code - 128 for code in (row.exit_code, row.derived_code) if 128 < code < 160}
            if row.state == "FAILED" and row.exit_code in {9, 12}:
                seen.add(row.exit_code)  # sacct keeps seven bits of a shell's 137
        # 0:125 is SLURM's own mark of an OOM, 0:53 of a failed launch, 0:15 ends every time-out.
        return seen - {0, 15, 53, 125}


_READ_LOG = "read the log: dinoforge logs RUN PARTITION"
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
    Outcome.NO_MARKER: _READ_LOG,
    Outcome.NO_PROGRESS: _READ_LOG,
    Outcome.UNKNOWN: _READ_LOG,
}


@dataclass(frozen=True)
class Verdict:
    """Class of an end, and what was seen."""

    outcome: Outcome
    message: str = ""

    @property
    def advice(self) -> str:
        """What a person can do; the caller fills in RUN and PARTITION."""
        return _ADVICE.get(self.outcome, "")


def classify(evidence: Evidence) -> Verdict:
    """Classify an attempt that did not finish its partition."""
    if evidence.outcome == Outcome.DONE:
        text = "it reported success, but its files do not match this recipe"
        return Verdict(Outcome.NO_MARKER, text)
    if evidence.outcome:  # recorded by the job itself: better than anything SLURM reports
        return Verdict(Outcome(evidence.outcome), evidence.message)
    for outcome, rule in _RULES:
        message = rule(evidence)
        if message:
            return Verdict(outcome, message)
    row = evidence.job_row
    state = f"{row.state} {row.exit_code}:{row.exit_signal} {row.reason}".strip()
    return Verdict(Outcome.UNKNOWN, state if evidence.rows else "it left no trace")


NOT_STARTED = "the array element ended before this partition started"

_OOM_LOG = re.compile(r"out of memory|oom[-_ ]?kill|exceeded memory limit", re.IGNORECASE)
_DEVICE_OOM = re.compile(r"CUDA out of memory|OutOfMemoryError: (CUDA|HIP)|CUDA error: out of mem")
_NO_MODULE = re.compile(r"\b(ModuleNotFoundError|ImportError): |command not found|No such file")
_PEER = re.compile(
    r"Connection closed by peer|NCCL.*(timeout|abort)|gloo.*timed? ?out", re.IGNORECASE
)
# As srun, bash and `slurm.node.command` print it.
_KILLED = re.compile(r"task \d+: Killed|: +\d+ Killed\b|ended by SIGKILL")
_USR2 = re.compile(r"User defined signal [12]")
_FAULTS = {11, 6, 7, 4, 8}  # SEGV, ABRT, BUS, ILL, FPE
_NODE_STATES = ("NODE_FAIL", "BOOT_FAIL", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "REVOKED")


def classify_exception(error: BaseException) -> Outcome:
    """Classify an exception where it was raised."""
    if isinstance(error, UsageError):
        return Outcome.USAGE
    if _DEVICE_OOM.search(f"{type(error).__name__}: {error}"):
        return Outcome.DEVICE_MEMORY
    if isinstance(error, MemoryError):
        return Outcome.MEMORY
    return Outcome.SETUP if isinstance(error, ImportError) else Outcome.EXCEPTION


def _memory(evidence: Evidence) -> str:
    for row in evidence.rows:
        if row.state == "OUT_OF_MEMORY" or 125 in (row.exit_signal, row.derived_signal):
            return "out of memory"
    match = _OOM_LOG.search(evidence.log)
    return f"out of memory (log: {match[0]})" if match else ""


def _preempted(evidence: Evidence) -> str:
    row = evidence.job_row
    # A job that ends within its grace time is no longer reported as preempted.
    early = row.limit_s and row.elapsed_s < 0.8 * row.limit_s - 30
    if row.state == "PREEMPTED" or (row.state == "TIMEOUT" and early):
        return "preempted"
    signaled = "TERM" in evidence.signals or "DUE TO PREEMPTION" in evidence.log
    return "ended after SIGTERM" if row.state == "COMPLETED" and signaled else ""


def _infrastructure(evidence: Evidence) -> str:
    row = evidence.job_row
    if row.state in _NODE_STATES:
        return f"{row.state} on {row.node}"
    if _USR2.search(evidence.log) or 12 in evidence.fatal_signals:
        return "signaled while it was starting"
    return "DUE TO NODE FAILURE" if "DUE TO NODE FAILURE" in evidence.log else ""


def _time(evidence: Evidence) -> str:
    row = evidence.job_row
    if row.state not in {"TIMEOUT", "DEADLINE"} and "DUE TO TIME LIMIT" not in evidence.log:
        return ""
    return f"time limit of {row.limit_s // 60} min reached" if row.limit_s else "time limit reached"


def _cancelled(evidence: Evidence) -> str:
    row = evidence.job_row
    if row.state != "CANCELLED":
        return ""
    return f"cancelled by user {row.by}" if row.by else "cancelled"


def _setup(evidence: Evidence) -> str:
    row = evidence.job_row
    if row.reason == "JobLaunchFailure" or (row.exit_signal, row.exit_code) == (53, 0):
        return "the node could not start it: no working folder, or no folder for the log"
    match = _NO_MODULE.search(evidence.log)
    failed_at_once = row.state == "FAILED" and not evidence.started
    if match and (failed_at_once or row.exit_code in {126, 127}):
        line = next((text for text in evidence.log.splitlines() if match[0] in text), match[0])
        return line.strip()[-200:]
    if row.exit_code in {126, 127} and not row.derived_code and not row.derived_signal:
        return "command not found on the node"
    return ""


def _crash(evidence: Evidence) -> str:
    if signals := _FAULTS & evidence.fatal_signals:
        return f"crashed (signal {min(signals)})"
    match = _PEER.search(evidence.log)
    return f"a peer died: {match[0]}" if match else ""


def _killed(evidence: Evidence) -> str:
    killed = 9 in evidence.fatal_signals or _KILLED.search(evidence.log)
    return "SIGKILL, cause unknown" if killed else ""


def _silent(evidence: Evidence) -> str:
    ended = evidence.job_row.state in {"COMPLETED", "FAILED"}
    return "exited without reporting a result" if ended else ""


# Order matters: a job that ran out of memory may also have been killed, one that hit its time limit
# was also cancelled. A rule returns the message, or nothing.
_RULES: tuple[tuple[Outcome, Callable[[Evidence], str]], ...] = (
    (Outcome.DEVICE_MEMORY, lambda e: "out of GPU memory" if _DEVICE_OOM.search(e.log) else ""),
    (Outcome.MEMORY, _memory),
    (Outcome.PREEMPTED, _preempted),
    (Outcome.INFRASTRUCTURE, _infrastructure),
    (Outcome.TIME, _time),
    (Outcome.USER, _cancelled),
    (Outcome.SETUP, _setup),
    (Outcome.KILLED, _killed),
    (Outcome.CRASH, _crash),
    (Outcome.NOT_STARTED, lambda e: NOT_STARTED if e.rows and not e.started else ""),
    (Outcome.NO_MARKER, _silent),
)
