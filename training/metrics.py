"""``metrics.jsonl``: one line every few steps; TensorBoard shows the same values.

Keys are flat with slashes. Values are those of the step itself (before its update). Measured times
are under ``clock/``: only they may differ between identical runs.
"""

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, TextIO

from dinoforge.files import write_text
from dinoforge.training.distributed.ranks import rank

__all__ = ["Clock", "MetricsFile"]


_log = logging.getLogger(__name__)


class MetricsFile:
    """Append rows to ``metrics.jsonl``, on rank 0; a resume first drops rows after its step."""

    def __init__(self, folder: Path, *, resume_at: int) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if rank() != 0:
            return
        path = folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        # A killed process may leave half a line.
        whole = (line for line in lines if line.endswith("}"))
        kept = [line for line in whole if json.loads(line)["step"] <= resume_at]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        with contextlib.suppress(ImportError):  # TensorBoard is optional
            from torch.utils.tensorboard import SummaryWriter

            place = str(folder / "tensorboard")
            if place != place.encode(errors="replace").decode():
                _log.warning("TensorBoard cannot write to %s: not UTF-8", place)
                return
            self._board = SummaryWriter(place, purge_step=resume_at + 1)

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_error: object) -> None:
        for writer in filter(None, (self._file, self._board)):
            writer.close()

    def write(self, step: int, row: dict[str, float]) -> None:
        """Append the row of ``step`` (1-based: updates done after it)."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)


class Clock:
    """Rates since the last reading: images per second, CPU seconds, seconds waited for data."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()
        self._images = 0
        self._wait = 0.0

    def count(self, images: int, waited_s: float) -> None:
        """Add one step."""
        self._images += images
        self._wait += waited_s

    def read(self) -> dict[str, float]:
        """Return the rates and reset them."""
        wall, cpu = time.monotonic(), time.process_time()
        passed = max(wall - self._wall, 1e-9)
        row = {
            "clock/images_per_s": self._images / passed,
            "clock/data_wait_s": self._wait,
            "clock/wall_s": passed,
            "clock/cpu_s": cpu - self._cpu,
        }
        self._wall, self._cpu, self._images, self._wait = wall, cpu, 0, 0.0
        return row
