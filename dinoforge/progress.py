"""Progress, rate and time left: a bar on a terminal, one line per minute in a file."""

import logging
import sys
import time
from typing import Any

from dinoforge.log import screen_shows

__all__ = ["Progress", "as_duration"]

_log = logging.getLogger(__name__)

LINE_EVERY_S = 60.0


def as_duration(seconds: float) -> str:
    """Format seconds: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts ``unit`` (``images``) of the task ``label`` up to ``total``; a context manager.

    ``done`` of them were finished by an earlier start and do not count for the rate.
    """

    def __init__(self, total: int, *, unit: str, label: str, done: int = 0) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = self._before = done
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._note = ""

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and screen_shows(logging.INFO):
            from rich import console, progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=console.Console(stderr=True),
            )
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, rate=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, n: int = 1, *, note: str = "") -> None:
        """Add ``n`` finished units; ``note`` (a loss, say) is shown after the rate."""
        self.done += n
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=self._rate_text())
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            _log.info("%s", self.line())

    def line(self) -> str:
        """Format the state as one line: done, total, rate, time left."""
        left = ""
        rate = self.rate()
        if rate > 0 and self.done < self.total:
            left = f", {as_duration((self.total - self.done) / rate)} left"
        return f"{self.label}: {self.done:,}/{self.total:,} {self._rate_text()}{left}"

    def rate(self) -> float:
        """Units per second since the start of this process."""
        passed = time.monotonic() - self._started
        return (self.done - self._before) / passed if passed > 0 else 0.0

    def _rate_text(self) -> str:
        rate = self.rate()
        number = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
        note = f", {self._note}" if self._note else ""
        return f"{self.unit} ({number}/s{note})"
