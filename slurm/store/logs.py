"""The end of a job's output, and the error in it."""

import re
from pathlib import Path

__all__ = ["last_error", "log_size", "log_tail"]

_TAIL_BYTES = 16384
_TRACEBACKS_BYTES = 65536  # those through torch are long
_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b")


def log_size(log: Path) -> int:
    """Size of a log in bytes; 0 if there is none."""
    return log.stat().st_size if log.is_file() else 0


def log_tail(log: Path, *, start: int = 0, most: int = _TAIL_BYTES) -> str:
    """Read the last ``most`` bytes of a log, none before ``start``; "" if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_error(log: Path, start: int) -> str:
    """Find the last ``error:`` line of a log, or the exception of its last traceback; "" if none.

    Bytes before ``start`` are of earlier starts of the job and do not count.
    """
    lines = log_tail(log, start=start, most=_TRACEBACKS_BYTES).splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    tracebacks = [n for n, line in enumerate(lines) if line.startswith("Traceback")]
    last = lines[tracebacks[-1] :] if tracebacks else []
    return next((line for line in last if _RAISED.match(line)), "")
