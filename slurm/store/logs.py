"""What the output of a job says at its end."""

import re
from pathlib import Path

__all__ = ["last_words", "log_size", "log_tail"]

_TAIL_BYTES = 16384
_TRACEBACKS_BYTES = 65536  # one that went through torch is long
_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b")


def log_size(log: Path) -> int:
    """Bytes of a log; 0 when there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def log_tail(log: Path, *, start: int = 0, most: int = _TAIL_BYTES) -> str:
    """Read the last ``most`` bytes of a log, none before ``start``; "" when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_words(log: Path, start: int) -> str:
    """Find what a command said at its end: its last ``error:`` line, or that of a traceback.

    Parameters
    ----------
    log : Path
        Output of the job, which earlier starts wrote to as well.
    start : int
        Bytes that were there before this start.
    """
    lines = log_tail(log, start=start, most=_TRACEBACKS_BYTES).splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if told:
        return told[-1]
    trace = [n for n, line in enumerate(lines) if line.startswith("Traceback")]
    raised = [line for line in lines[trace[-1] :] if _RAISED.match(line)] if trace else []
    return raised[0] if raised else ""
