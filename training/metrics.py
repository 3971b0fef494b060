"""``metrics.jsonl``: one line every few steps; the file is the truth, TensorBoard a view of it.

Keys are flat with slashes. Values are those of the step itself (before its update). What a clock
measured is under ``clock/``: only that may differ between identical runs.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dinoforge.training.distributed.ranks import rank, sum_over_ranks, world_size
from dinoforge.training.method import Losses, Targets

__all__ = ["Clock", "MetricsFile", "diagnose", "loss_metrics"]

_log = logging.getLogger(__name__)


@torch.no_grad()
def loss_metrics(losses: Sequence[Losses], targets: Sequence[Targets]) -> dict[str, float]:
    """Loss terms (nats) and the signs of collapse of one step, over all its images.

    Takes the micro-batches of this rank; every rank must call it.

    ``teacher/entropy_of_mean``: entropy of the mean target, ln K when all prototypes are used;
    ``teacher/mean_entropy``: mean entropy of single targets, 0 when each picks one prototype, ln K
    when targets say nothing; ``features/std``: standard deviation of unit class tokens times
    sqrt(D), about 1 when healthy, 0 when collapsed.
    """
    names = ("total", "dino_local", "dino_global", "ibot", "koleo")
    terms = torch.stack(
        [torch.stack([getattr(part, n).detach() for n in names]) for part in losses]
    )
    terms = sum_over_ranks(terms.double().mean(dim=0)) / world_size()
    row = {f"loss/{name}": value for name, value in zip(names, terms.tolist(), strict=True)}
    row["loss/dino"] = row["loss/dino_local"] + row["loss/dino_global"]
    targets_BK = torch.cat([part.cls_BK for part in targets]).double()
    features_BD = torch.cat([part.features_BD for part in targets]).double()
    features_BD = torch.nn.functional.normalize(features_BD, dim=-1)
    rows = len(features_BD) * world_size()
    mean_K = sum_over_ranks(targets_BK.sum(dim=0)) / rows
    mean_D = sum_over_ranks(features_BD.sum(dim=0)) / rows
    variance_D = sum_over_ranks((features_BD - mean_D).square().sum(dim=0)) / max(rows - 1, 1)
    entropy = sum_over_ranks(_entropy(targets_BK).sum()) / rows
    return row | {
        "teacher/entropy_of_mean": _entropy(mean_K).item(),
        "teacher/mean_entropy": entropy.item(),
        "features/std": variance_D.sqrt().mean().item() * math.sqrt(len(mean_D)),
    }


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=-1)


def diagnose(row: dict[str, float], prototypes: int) -> str:
    """Name what is wrong with a run in a sentence, or "" when nothing shows.

    Thresholds are those of small runs on CIFAR-10: a healthy one has a feature std of 0.9 to 1
    and targets well below ln K after a few hundred steps.
    """
    largest = math.log(prototypes)
    if row["features/std"] < 0.2:
        return "features collapse: all images get nearly the same class token"
    if row["teacher/mean_entropy"] > 0.93 * largest:
        return (
            "targets are near uniform: lower teacher.temperature, or use model.init=xavier "
            "if the width is below 384"
        )
    if row["teacher/entropy_of_mean"] < 0.3 * largest:
        return "few prototypes are used: raise teacher.temperature, or use teacher.balance=sinkhorn"
    return ""


class MetricsFile:
    """Append rows to ``metrics.jsonl``; on a resume, drop the rows past the checkpoint first.

    Rank 0 writes; on the others nothing happens.
    """

    def __init__(self, folder: Path, *, resume_at: int) -> None:
        self.path = folder / "metrics.jsonl"
        self._folder = folder
        self._resume_at = resume_at
        self._file: Any = None
        self._board: Any = None

    def __enter__(self) -> "MetricsFile":
        if rank() != 0:
            return self
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        # A kill may leave half a line at the end.
        whole = (line for line in lines if line.endswith("}"))
        kept = [line for line in whole if json.loads(line)["step"] <= self._resume_at]
        draft = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        draft.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(self._folder / "tensorboard", self._resume_at)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for open_file in (self._file, self._board):
            if open_file is not None:
                open_file.close()

    def write(self, step: int, row: dict[str, float]) -> None:
        """Append the row of ``step`` (1-based: updates done after it)."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)


def _tensorboard(folder: Path, step: int) -> Any:
    """Open a TensorBoard writer when the package is there; failing to log never stops training."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class Clock:
    """Rates since the last reading: images a second, CPU seconds, waiting for data."""

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
        """Return the rates and start anew."""
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
