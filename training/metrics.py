"""``metrics.jsonl``: one line every few steps; TensorBoard shows the same values.

Keys are flat with slashes. Values are those of the step itself (before its update). Measured times
are under ``clock/``: only they may differ between identical runs.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from dinoforge.files import write_text
from dinoforge.training.distributed.ranks import rank, sum_over_ranks, world_size
from dinoforge.training.method import Losses, Targets

__all__ = ["Clock", "MetricsFile", "diagnose", "loss_metrics"]


@torch.no_grad()
def loss_metrics(losses: Sequence[Losses], targets: Sequence[Targets]) -> dict[str, float]:
    """Compute loss terms (nats) and signs of collapse of one step, over all its images.

    Takes the micro-batches of this rank; every rank must call it.

    ``teacher/entropy_of_mean``: entropy of the mean target, ln K when all prototypes are used;
    ``teacher/mean_entropy``: mean entropy of single targets, 0 when each picks one prototype, ln K
    when they are uniform; ``features/std``: standard deviation of unit class tokens times sqrt(D),
    about 1 when healthy, 0 when collapsed.
    """
    names = [field.name for field in fields(Losses)]
    terms = torch.stack([torch.stack([getattr(part, n) for n in names]) for part in losses])
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
    """Describe what is wrong with a run, "" if nothing.

    Thresholds come from small runs on CIFAR-10: a healthy one has a feature std of 0.9 to 1 and
    targets well below ln K after a few hundred steps.
    """
    largest = math.log(prototypes)
    if row["features/std"] < 0.2:
        return "features collapse: all images have almost the same class token"
    if row["teacher/mean_entropy"] > 0.93 * largest:
        return (
            "targets are almost uniform: lower teacher.temperature, or use model.init=xavier "
            "if the width is below 384"
        )
    if row["teacher/entropy_of_mean"] < 0.3 * largest:
        return "few prototypes are used: raise teacher.temperature, or use teacher.balance=sinkhorn"
    return ""


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
