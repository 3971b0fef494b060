"""Why a partition is not done: pure functions over what was found, in one table.

SLURM's word is a hint. An exit code alone never decides: the same end is FAILED 1:0, FAILED 0:9 or
COMPLETED 0:0, by version, accounting, and who swallowed which code. So states, steps, reasons, the
job's own words and the tail of its log are read together; the first rule that matches wins.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Evidence", "Outcome", "Row", "Verdict", "classify", "classify_exception"]


class Outcome(StrEnum):
    """What became of one attempt at a partition."""

    DONE = "done"
    MEMORY = "memory"  # host memory
    DEVICE_MEMORY = "device-memory"
    INFRASTRUCTURE = "infrastructure"  # node, network, requeue
    PREEMPTED = "preempted"
    TIME = "time"
    USER = "cancelled"
    UPSTREAM = "upstream"  # it waited for something that failed
    SETUP = "set-up"  # paths, interpreter, packages: every element fails alike
    USAGE = "usage"  # one line that the user can mend
    KILLED = "killed"  # by signal 9, nobody says why
    CRASH = "crash"  # segmentation fault, abort, a peer that died
    EXCEPTION = "exception"  # of our code or the data
    NO_MARKER = "no-marker"  # ended well, proved nothing
    NOT_STARTED = "not-started"  # its element ended before its turn came
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of ``sacct -D`` or ``scontrol show job``: a run of a job, or a step of it."""

    job: str  # 76_3 or 76
    step: str = ""  # "", batch, 0, ...
    state: str = ""  # first word: CANCELLED of `CANCELLED by 0`
    by: str = ""  # who cancelled, when it says so
    exit_code: int = 0
    exit_signal: int = 0
    derived_code: int = 0
    derived_signal: int = 0
    reason: str = ""
    elapsed_s: int = 0
    limit_s: int = 0  # 0: not known
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything known about one attempt."""

    done: bool = False  # a marker proves it
    started: bool = True  # the partition's own lines say that it began
    outcome: str = ""  # what the job itself wrote at its end
    message: str = ""
    signals: Sequence[str] = ()  # signals that the job wrote down
    rows: Sequence[Row] = ()  # of the last run of the element, job row first
    log: str = ""  # tail of the element's log

    @property
    def job_row(self) -> Row:
        """The row of the job itself."""
        return next((row for row in self.rows if not row.step), Row(job=""))


@dataclass(frozen=True)
class Verdict:
    """Class of a failure, what was seen, and what a person can do."""

    outcome: Outcome
    message: str
    advice: str = ""


_ADVICE = {
    Outcome.MEMORY: "raise memory_gb in the profile, or lower partitions_per_element",
    Outcome.DEVICE_MEMORY: "choose a GPU with more memory, or a smaller network",
    Outcome.INFRASTRUCTURE: "wait: it is submitted again",
    Outcome.PREEMPTED: "wait: it is submitted again",
    Outcome.TIME: "raise minutes in the profile, or lower partitions_per_element",
    Outcome.USER: "dinoforge retry RUN, when it may go on",
    Outcome.UPSTREAM: "mend what it waited for, then dinoforge retry RUN",
    Outcome.SETUP: "check that nodes see the run folder and that `python` and `setup` of the "
    "profile give them the packages, then dinoforge retry RUN",
    Outcome.USAGE: "mend it, then dinoforge retry RUN",
    Outcome.KILLED: "look at the node's log; raise memory_gb if it happens again",
    Outcome.CRASH: "look at the log of the first element that failed",
    Outcome.EXCEPTION: "read the traceback: dinoforge logs RUN PARTITION",
    Outcome.NO_MARKER: "read the log: dinoforge logs RUN PARTITION",
    Outcome.UNKNOWN: "read the log: dinoforge logs RUN PARTITION",
}

_OOM_LOG = re.compile(r"out of memory|oom[-_ ]?kill|exceeded memory limit", re.IGNORECASE)
_DEVICE_OOM = re.compile(r"CUDA out of memory|OutOfMemoryError: (CUDA|HIP)|CUDA error: out of mem")
_NO_MODULE = re.compile(r"\b(ModuleNotFoundError|ImportError): |command not found|No such file")
_PEER = re.compile(
    r"Connection closed by peer|NCCL.*(timeout|abort)|gloo.*timed? ?out", re.IGNORECASE
)
_KILLED_LOG = re.compile(r"task \d+: Killed|: +\d+ Killed\b")  # srun, bash
_USR2 = re.compile(r"User defined signal [12]")
_FAULTS = (11, 6, 7, 4, 8)  # SEGV, ABRT, BUS, ILL, FPE
_NODE_STATES = ("NODE_FAIL", "BOOT_FAIL", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "REVOKED")


def classify(found: Evidence) -> Verdict:
    """Say why an attempt did not do its partition; the first rule that matches wins."""
    if found.done:
        return Verdict(Outcome.DONE, "")
    own = _own_words(found)
    if own is not None:
        return own
    for outcome, rule in _RULES:
        message = rule(found)
        if message:
            return Verdict(outcome, message, _ADVICE.get(outcome, ""))
    message = "it left no trace" if not found.rows else _state(found)
    return Verdict(Outcome.UNKNOWN, message, _ADVICE[Outcome.UNKNOWN])


def classify_exception(error: BaseException) -> Outcome:
    """Classify an exception where it was raised."""
    from dinoforge.errors import UsageError

    if isinstance(error, UsageError):
        return Outcome.USAGE
    if _DEVICE_OOM.search(f"{type(error).__name__}: {error}"):
        return Outcome.DEVICE_MEMORY
    if isinstance(error, MemoryError):
        return Outcome.MEMORY
    return Outcome.SETUP if isinstance(error, ImportError) else Outcome.EXCEPTION


def _own_words(found: Evidence) -> Verdict | None:
    """Take what the job wrote at its own end: better than anything SLURM can say."""
    if not found.outcome:
        return None
    if found.outcome == Outcome.DONE:
        text = "it ended well, but its files are not those of this recipe"
        return Verdict(Outcome.NO_MARKER, text, _ADVICE[Outcome.NO_MARKER])
    outcome = Outcome(found.outcome)
    return Verdict(outcome, found.message, _ADVICE.get(outcome, ""))


def _state(found: Evidence) -> str:
    row = found.job_row
    reason = f", {row.reason}" if row.reason not in {"", "None"} else ""
    node = f" on {row.node}" if row.node and "None" not in row.node else ""
    return f"{row.state or 'no state'} {row.exit_code}:{row.exit_signal}{reason}{node}"


def _signals(found: Evidence) -> set[int]:
    """Signals that ended the job or a step, wherever SLURM or a shell wrote them."""
    seen: set[int] = set()
    for row in found.rows:
        seen |= {row.exit_signal, row.derived_signal}
        seen |= {code - 128 for code in (row.exit_code, row.derived_code) if 128 < code < 160}
        if row.exit_code == 9 and row.state == "FAILED":
            seen.add(9)  # sacct keeps seven bits of a shell's 137
    # 0:125 is SLURM's own mark of an OOM, 0:53 of a launch that failed, 0:15 ends every time-out.
    return seen - {0, 15, 53, 125}


def _memory(found: Evidence) -> str:
    steps = any(row.state == "OUT_OF_MEMORY" for row in found.rows)
    marked = any(125 in (row.exit_signal, row.derived_signal) for row in found.rows)
    if steps or marked:
        return "out of memory"
    word = _OOM_LOG.search(found.log)
    if word and not _DEVICE_OOM.search(found.log):
        return f"out of memory (log: {word[0]})"
    return ""


def _device_memory(found: Evidence) -> str:
    return "out of GPU memory" if _DEVICE_OOM.search(found.log) else ""


def _preempted(found: Evidence) -> str:
    row = found.job_row
    if row.state == "PREEMPTED":
        return "preempted"
    # A job that ends within its grace time is not called preempted any more.
    early = row.limit_s and row.elapsed_s < 0.8 * row.limit_s - 30
    if row.state == "TIMEOUT" and early:
        return "ended within the grace time of a preemption"
    told = "TERM" in found.signals or "DUE TO PREEMPTION" in found.log
    return "ended after SIGTERM" if row.state == "COMPLETED" and told else ""


def _infrastructure(found: Evidence) -> str:
    row = found.job_row
    if row.state in _NODE_STATES:
        return f"{row.state}{f' on {row.node}' if row.node else ''}"
    if (
        _USR2.search(found.log)
        or 12 in _signals(found)
        or (row.state, row.exit_code)
        == (
            "FAILED",
            12,
        )
    ):
        return "signalled before its start was over"
    return "DUE TO NODE FAILURE" if "DUE TO NODE FAILURE" in found.log else ""


def _time(found: Evidence) -> str:
    if found.job_row.state in {"TIMEOUT", "DEADLINE"} or "DUE TO TIME LIMIT" in found.log:
        limit = found.job_row.limit_s // 60
        return f"time limit{f' of {limit} min' if limit else ''} reached"
    return ""


def _upstream(found: Evidence) -> str:
    row = found.job_row
    if row.reason == "DependencyNeverSatisfied":
        return "what it waited for failed"
    if row.state == "CANCELLED" and not row.by and not found.started and not row.elapsed_s:
        return "cancelled by SLURM, with what it waited for"
    return ""


def _user(found: Evidence) -> str:
    row = found.job_row
    return f"cancelled{f' by user {row.by}' if row.by else ''}" if row.state == "CANCELLED" else ""


def _setup(found: Evidence) -> str:
    row = found.job_row
    if row.reason == "JobLaunchFailure" or (row.exit_signal, row.exit_code) == (53, 0):
        return "the node could not start it: working folder or log not there"
    word = _NO_MODULE.search(found.log)
    failed_at_once = row.state == "FAILED" and not found.started
    if word and (failed_at_once or row.exit_code in {126, 127}):
        line = next((text for text in found.log.splitlines() if word[0] in text), word[0])
        return line.strip()[-200:]
    if row.exit_code in {126, 127} and not row.derived_code and not row.derived_signal:
        return "command not found on the node"
    return ""


def _killed(found: Evidence) -> str:
    if 9 in _signals(found) or _KILLED_LOG.search(found.log):
        return "killed (signal 9), nobody says why"
    return ""


def _crash(found: Evidence) -> str:
    signal = next((number for number in _FAULTS if number in _signals(found)), None)
    if signal is not None:
        return f"crashed (signal {signal})"
    word = _PEER.search(found.log)
    return f"a peer died: {word[0]}" if word else ""


def _not_started(found: Evidence) -> str:
    return "its element ended before its turn" if found.rows and not found.started else ""


def _silent(found: Evidence) -> str:
    return "ended without a word" if found.job_row.state in {"COMPLETED", "FAILED"} else ""


# Order matters: a job that ran out of memory may also have been killed, one that hit its time limit
# was also cancelled.
_RULES: tuple[tuple[Outcome, Callable[[Evidence], str]], ...] = (
    (Outcome.DEVICE_MEMORY, _device_memory),
    (Outcome.MEMORY, _memory),
    (Outcome.PREEMPTED, _preempted),
    (Outcome.INFRASTRUCTURE, _infrastructure),
    (Outcome.TIME, _time),
    (Outcome.UPSTREAM, _upstream),
    (Outcome.USER, _user),
    (Outcome.SETUP, _setup),
    (Outcome.KILLED, _killed),
    (Outcome.CRASH, _crash),
    (Outcome.NOT_STARTED, _not_started),
    (Outcome.NO_MARKER, _silent),
)
