"""The training loop: data, forward, backward, guards, update, teacher, metrics, checkpoint.

Each is one call here; what it does is in the module of its name.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dinoforge.errors import Interrupted
from dinoforge.progress import Progress, as_duration
from dinoforge.randomness import Draws
from dinoforge.runs import Run
from training import checkpoint
from training.build import Schedules, autocast, build_method, build_optimizer, choose_device
from training.clipping import clip_gradients
from training.config import TrainingConfig
from training.data import Batch, TrainingData, open_training_data
from training.ema import update_teacher
from training.export import export_backbone
from training.guards import StopSignals, check_finite
from training.masks import draw_masks
from training.method import Losses, Method, Views
from training.metrics import Clock, MetricsFile, diagnose, loss_metrics

__all__ = ["Trainer", "TrainingSummary", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished training leaves behind."""

    steps: int
    images: int  # in the data set
    undecodable: int  # met and replaced by this process
    seconds: float  # of this process
    last: dict[str, float]  # last row of metrics
    export: str  # the backbone

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Tell the summary to a person."""
        told = [f"{self.steps:,} steps on {self.images:,} images, {as_duration(self.seconds)}"]
        if "loss/total" in self.last:
            told.append(f"loss {self.last['loss/total']:.3f}")
        if self.undecodable:
            told.append(f"{self.undecodable:,} undecodable images replaced, named in the log")
        return [*told, f"backbone: {self.export}"]


def train(config: TrainingConfig, run: Run) -> TrainingSummary:
    """Train to the last step, or go on from the newest good checkpoint.

    Raises
    ------
    Interrupted
        A signal came: the state of the last step is saved.
    DinoforgeError
        A loss or gradient is not finite; nothing was updated by it.
    UsageError
        What the user can mend: data, device, recipe, disk.
    """
    started = time.monotonic()
    trainer = Trainer(config, run.folder)
    with (
        StopSignals() as stop,
        MetricsFile(run.folder, resume_at=trainer.step) as metrics,
        Progress(
            config.steps * config.batch_size,
            unit="images",
            label="train",
            done=trainer.step * config.batch_size,
        ) as progress,
    ):
        for batch, waited_s in trainer.batches():
            row = trainer.run_step(batch, waited_s)
            if row is not None:
                metrics.write(trainer.step, row)
                trainer.warn_once(row)
            progress.advance(config.batch_size, note=f"loss {trainer.loss:.3f}")
            if stop.received or trainer.save_is_due():
                trainer.save()
            if stop.received and trainer.step < config.steps:
                raise Interrupted(
                    f"{stop.received} at step {trainer.step}: saved; start the same command again"
                )
    return TrainingSummary(
        steps=trainer.step,
        images=len(trainer.data),
        undecodable=len(trainer.data.undecodable),
        seconds=time.monotonic() - started,
        last=trainer.last_row,
        export=str(trainer.export),
    )


class Trainer:
    """All state of a run, and one step of it."""

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.device = choose_device(config)
        self.data: TrainingData = open_training_data(config, folder / "cache")
        self.method: Method = build_method(config).to(self.device)
        self.optimizer = build_optimizer(config, self.method)
        self.schedules = Schedules.of(config)
        self.step = checkpoint.load_latest(folder / "checkpoints", self.method, self.optimizer)
        self.loss = float("nan")
        self.last_row: dict[str, float] = {}
        self.export = folder / "export" / checkpoint.step_name(self.step) / "model.safetensors"
        self._clock = Clock()
        self._warned = ""
        if not self.export.exists():  # untrained at step 0: what the trained one is compared with
            self.export = export_backbone(folder / "export", self.step, self.method, config)
        if self.step:
            _log.info("going on from step %d", self.step)

    def batches(self) -> Iterator[tuple[Batch, float]]:
        """Yield the batches that are left, and the seconds waited for each."""
        before = time.monotonic()
        for batch in self.data.batches(self.step, self.config.steps):
            yield batch, time.monotonic() - before
            before = time.monotonic()

    def run_step(self, batch: Batch, waited_s: float) -> dict[str, float] | None:
        """Do one update; returns a row of metrics when one is due."""
        hyper = self.schedules.apply(self.optimizer, self.step)
        losses = self._forward(self._views(batch), hyper["schedule/teacher_temperature"])
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norms = clip_gradients(self._networks(), self.config.optimizer.clip)
        check_finite(self.step, losses.total, norms, batch.keys)
        self.optimizer.step()
        update_teacher(self.method.teacher, self.method.student, hyper["schedule/momentum"])
        self.step += 1
        self.loss = losses.total.item()
        self._clock.count(self.config.batch_size, waited_s)
        if self.step % self.config.log_every and self.step != self.config.steps:
            return None
        gradient = {f"gradient/{name}": norm.item() for name, norm in norms.items()}
        self.last_row = loss_metrics(losses) | gradient | hyper | self._clock.read()
        return self.last_row

    def warn_once(self, row: dict[str, float]) -> None:
        """Say in words when the metrics show a known way to fail."""
        after_start = self.step >= max(200, self.config.warmup)
        told = diagnose(row, self.config.dino_head.prototypes) if after_start else ""
        if told and told != self._warned:
            _log.warning("step %d: %s", self.step, told)
            self._warned = told

    def save_is_due(self) -> bool:
        """Tell whether this step is saved."""
        every = self.config.checkpoint.every
        return self.step % every == 0 or self.step == self.config.steps

    def save(self) -> None:
        """Write the checkpoint and the backbone of this step."""
        folder = self.folder / "checkpoints"
        # The export first: a checkpoint is never without its backbone.
        self.export = export_backbone(self.folder / "export", self.step, self.method, self.config)
        checkpoint.save(folder, self.step, self.method, self.optimizer)
        checkpoint.prune(folder, self.step, self.config.checkpoint)

    def _views(self, batch: Batch) -> Views:
        """Add this step's masks to the crops."""
        side = self.config.crops.global_size // self.config.model.patch_size
        draws = Draws(self.config.seed, "masks", self.step)
        masks = draw_masks(len(batch.global_crops), side, side, self.config.masks, draws)
        return Views(
            batch.global_crops.to(self.device),
            batch.local_crops.to(self.device),
            torch.from_numpy(masks.masks_BN).to(self.device),
            torch.from_numpy(masks.indices_M).to(self.device),
            torch.from_numpy(masks.weights_M).to(self.device),
        )

    def _forward(self, views: Views, temperature: float) -> Losses:
        draws = Draws(self.config.seed, "drop path", self.step)
        with autocast(self.config, self.device):
            losses: Losses = self.method(
                views, temperature, lambda n: torch.from_numpy(draws.shuffle(n))
            )
        return losses

    def _networks(self) -> dict[str, torch.nn.Module]:
        return dict(self.method.student.items())
