"""Logging for people: one line per event, on the screen and in the run folder.

Messages are constants with the values as arguments. Numbers for machines go to ``metrics.jsonl``
and the markers, never into text that somebody would have to parse.
"""

import contextlib
import logging
import sys
from pathlib import Path

from dinoforge.errors import printable

__all__ = ["log_to_folder", "screen_shows", "set_up_logging", "stop_logging"]


class _OneLine(logging.Formatter):
    """Keeps an event on one line, whatever a path in it contains."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format all but a traceback."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _LogFile(logging.FileHandler):
    """A log file that loses lines while the disk is full: the run itself reports that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Print no traceback for an error of the disk."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, even with a full disk."""
        with contextlib.suppress(OSError):
            super().close()


def set_up_logging(*, verbosity: int = 0, rank: int = 0) -> None:
    """Send the project's log to stderr; on ``rank > 0`` only warnings, prefixed with the rank.

    ``verbosity``: -1 warnings, 0 information, 1 details.
    """
    level = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING if rank > 0 else level)
    prefix = f"[rank {rank}] " if rank > 0 else ""
    screen.setFormatter(_OneLine(prefix + "%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger("dinoforge")
    root.setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    root.handlers = [screen]
    root.propagate = False


def screen_shows(level: int) -> bool:
    """Return whether lines of ``level`` reach the screen: not under ``-q``, nor on rank > 0.

    The loggers themselves pass them on to the log of the run.
    """
    logger = logging.getLogger("dinoforge")
    screens = [x for x in logger.handlers if not isinstance(x, logging.FileHandler)]
    return logger.isEnabledFor(level) and all(screen.level <= level for screen in screens)


def log_to_folder(folder: Path, *, rank: int = 0) -> logging.Handler:
    """Append the log to ``folder/rank-00000.txt``, too; returns the handler for `stop_logging`."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(folder / f"rank-{rank:05d}.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_OneLine("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    logging.getLogger("dinoforge").addHandler(handler)
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Detach and close a handler made by `log_to_folder`."""
    logging.getLogger("dinoforge").removeHandler(handler)
    handler.close()
