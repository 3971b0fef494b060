"""The training loop: data, forward, backward, guards, update, teacher, metrics, checkpoint.

Each is one call here, defined in the module of its name.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinoforge.errors import Interrupted, RankStopped, UsageError
from dinoforge.pages.formatting import counted
from dinoforge.progress import Progress, as_duration
from dinoforge.sources.accounting import describe_failed, name_undecodable, write_problems
from dinoforge.steps import export_file
from dinoforge.training.attention import remember, settle_attention
from dinoforge.training.build import build_optimizer, choose_device
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch, open_training_data
from dinoforge.training.data.views import micro_batches
from dinoforge.training.distributed.checkpoint import Checkpoints
from dinoforge.training.distributed.parallel import make_parallel
from dinoforge.training.distributed.ranks import (
    RankInfo,
    from_rank_0,
    highest_over_ranks,
    on_rank_0,
)
from dinoforge.training.export import gather_backbone, gather_tensors, write_backbone
from dinoforge.training.frozen_teacher import remember_frozen, settle_frozen
from dinoforge.training.guards import StopSignals, check_finite
from dinoforge.training.methods.method import Losses, Views
from dinoforge.training.metrics import Clock, MetricsFile
from dinoforge.training.precision import autocast
from dinoforge.training.schedules import apply_schedules
from dinoforge.training.updates import clip_gradients, drop_gradients_of_last_layer, update_teacher

__all__ = ["Trainer", "TrainingSummary", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """Result of a finished training."""

    steps: int
    images: int  # in the data set
    labeled: int  # labeled images of a method that has some, else 0
    undecodable: int  # replaced by this process
    problems: dict[str, int]  # reason -> files, members and sources that gave no image
    not_downloaded: dict[str, int]  # status -> samples: see `Account`
    parts: list[dict[str, Any]]  # of the mixture: name, images, seen and passes; else empty
    seconds: float  # of this process
    last: dict[str, float]  # last row of metrics
    export: str  # the backbone

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Format the summary for the terminal."""
        done = f"{counted(self.steps, 'step')} on {counted(self.images, 'image')}"
        if self.labeled:
            done += f" and {counted(self.labeled, 'labeled image')}"
        lines = [f"{done}, {as_duration(self.seconds)}"]
        if "loss/total" in self.last:
            lines.append(f"loss {self.last['loss/total']:.3f}")
        for part in self.parts:
            passes = f"{part['passes']:,.2f} passes over {counted(part['images'], 'image')}"
            lines.append(f"part {part['name']}: {part['seen']:,} images seen, {passes}")
        if self.undecodable:
            lines.append(f"{self.undecodable:,} undecodable images replaced, named in the log")
        if self.problems:
            counts = (f"{count:,} {reason}" for reason, count in self.problems.items())
            lines.append(f"problems of the sources: {', '.join(counts)}")
        if self.not_downloaded:
            lines.append(f"samples of the sources: {describe_failed(self.not_downloaded)}")
        return [*lines, f"backbone: {self.export}"]


def train(
    config: TrainingConfig, folder: Path, facts: dict[str, Any] | None = None
) -> TrainingSummary:
    """Train to the last step, from the newest intact checkpoint if any; every rank calls it.

    Parameters
    ----------
    config : TrainingConfig
    folder : Path
        The run folder, on a file system shared by all ranks.
    facts : dict, optional
        Of the run record; the attention back end chosen for this machine is added, the number of
        ranks, what the sources gave, and what was seen of each part of a mixture.

    Raises
    ------
    Interrupted
        If any rank received a signal: the state of the last step is saved.
    DinoforgeError
        If a loss or gradient is not finite; nothing was updated by it.
    UsageError
        What the user can fix: data, device, recipe, disk.
    """
    started = time.monotonic()
    with StopSignals() as stop:
        trainer = Trainer(config, folder)
        if facts is not None:
            facts["attention"] = asdict(trainer.attention)
            facts["ranks"] = trainer.rank_info.world_size
        total, done = config.steps * config.batch_size, trainer.step * config.batch_size
        with (
            MetricsFile(folder, resume_at=trainer.step) as metrics,
            Progress(total, unit="images", label="train", done=done) as progress,
            trainer.accounting(facts),
            trainer.saving(),
        ):
            for batch, waited_s in trainer.batches():
                row = trainer.run_step(batch, waited_s)
                if row is not None:
                    metrics.write(trainer.step, row)
                    trainer.warn_once(row)
                progress.advance(config.batch_size, note=f"loss {trainer.loss:.3f}")
                stopped_by = highest_over_ranks(stop.received)  # read once: it may change
                is_last = trainer.step == config.steps
                if stopped_by or is_last or trainer.step % config.checkpoint.every == 0:
                    trainer.save()
                if stopped_by and not is_last:
                    trainer.checkpoints.finish()
                    if trainer.rank_info.rank:
                        raise RankStopped(Interrupted.exit_code)
                    name = signal.Signals(stopped_by).name
                    raise Interrupted(
                        f"{name} at step {trainer.step}: saved; start the same command again"
                    )
    return trainer.summarize(seconds=time.monotonic() - started)


class Trainer:
    """The state of a run on this rank, and one step of it."""

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        self.config = settle_frozen(config, folder)
        self.rank_info = RankInfo.of_environment()
        self.device = choose_device(config, self.rank_info)
        self.data = open_training_data(config, folder / "cache", self.rank_info, self.device)
        account = self.data.account()
        if self.rank_info.rank == 0 and account.is_partial:
            account.log()  # not only at the end: a training takes long
        self.attention = settle_attention(config, self.device, folder)
        self.parallel = make_parallel(self.config, self.device, self.rank_info, self.attention)
        self.method = self.parallel.method
        self.optimizer = build_optimizer(config, self.method, self.parallel.shard_group)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        self.step = self.checkpoints.load_latest(self.method, self.optimizer)
        freeze = config.optimizer
        self.frozen_gradients = (  # steps
            config.freeze_last_layer if freeze.freeze_by == "gradient" else 0
        )
        self.loss = float("nan")
        self.last_row: dict[str, float] = {}
        self.folder = folder
        self._clock = Clock()
        self._warned = ""
        if self.step:
            _log.info("resuming from step %d", self.step)
        # At step 0 the untrained backbone, with which the trained one is compared.
        if from_rank_0(not export_file(folder, self.step).exists()):
            on_rank_0(self._export())
        remember(self.attention, folder)
        remember_frozen(config.teacher.frozen, self.config.teacher.frozen, folder)

    def batches(self) -> Iterator[tuple[Batch, float]]:
        """Yield the remaining batches, and the seconds waited for each."""
        before = time.monotonic()
        for batch in self.data.batches(self.step, self.config.steps):
            yield batch, time.monotonic() - before
            before = time.monotonic()

    def run_step(self, batch: Batch, waited_s: float) -> dict[str, float] | None:
        """Do one update; returns a row of metrics when one is due."""
        hyper = apply_schedules(self.config, self.optimizer, self.step)
        parts = micro_batches(self.config, batch, self.rank_info, self.device)
        with autocast(self.config, self.device):
            targets = self.method.targets(parts, hyper["schedule/teacher_temperature"])
        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._backward(views, target, last=views is parts[-1])
            for views, target in zip(parts, targets, strict=True)
        ]
        networks, limit = dict(self.method.student.items()), self.config.optimizer
        norms = clip_gradients(networks, limit.clip, self.parallel.shard_group, by=limit.clip_by)
        self.loss = check_finite(self.step, losses, norms, batch.keys)
        if self.step < self.frozen_gradients:
            drop_gradients_of_last_layer(self.optimizer)
        self.optimizer.step()
        if self.method.teacher:
            update_teacher(self.method.teacher, self.method.student, hyper["schedule/momentum"])
        self.step += 1
        self._clock.count(self.config.batch_size, waited_s)
        if self.step % self.config.log_every and self.step != self.config.steps:
            return None
        gradient = {f"gradient/{name}": norm.item() for name, norm in norms.items()}
        self.last_row = self.method.metrics(losses, targets) | gradient | hyper | self._clock.read()
        for part in self.parts():
            for name in ("seen", "passes"):
                self.last_row[f"parts/{part['name']}/{name}"] = part[name]
        return self.last_row

    def parts(self) -> list[dict[str, Any]]:
        """Count what was seen of each part of a mixture; empty without one."""
        uses = self.data.order.uses(self.step) if self.config.data.parts else []
        return [asdict(use) | {"passes": use.passes} for use in uses]

    def warn_once(self, row: dict[str, float]) -> None:
        """Log a warning when the metrics show a known kind of failure."""
        if self.rank_info.rank or self.step < max(200, self.config.warmup):
            return
        warning = self.method.diagnose(row)
        if warning and warning != self._warned:
            _log.warning("step %d: %s", self.step, warning)
            self._warned = warning

    def summarize(self, *, seconds: float) -> TrainingSummary:
        """Return what this process did in ``seconds``."""
        account = self.data.account()
        return TrainingSummary(
            steps=self.step,
            images=account.images,
            labeled=account.labeled,
            undecodable=account.undecodable,
            problems=dict(account.problems),
            not_downloaded=dict(account.not_downloaded),
            parts=self.parts(),
            seconds=seconds,
            last=self.last_row,
            export=str(export_file(self.folder, self.step)),
        )

    def save(self) -> None:
        """Write the checkpoint and the backbone of this step, in the background."""
        self.checkpoints.save(self.step, self.method, self.optimizer, before=self._export())

    @contextlib.contextmanager
    def accounting(self, facts: dict[str, Any] | None) -> Iterator[None]:
        """Add what the sources gave to the run record, however the loop ends."""
        try:
            yield
        finally:
            if facts is not None:  # a start without a step left decodes nothing
                account = self.data.account().joined(facts.get("earlier", []))
                facts["sources"] = account.as_json()
                if self.config.data.parts:
                    facts["parts"] = self.parts()
                if account.undecodable or not account.is_partial:  # else logged at the start
                    account.log()
                undecodable = self.data.undecodable
                if account.undecodable == len(undecodable):  # else an earlier start wrote more
                    images = self.data.images
                    named = name_undecodable(images.table, undecodable)
                    write_problems(self.folder, [*images.problems, *named])

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Finish the last write, however the loop ends."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(UsageError):  # the first error is reported
                self.checkpoints.finish()
            raise
        self.checkpoints.finish()

    def _export(self) -> Callable[[], object]:
        tensors, step = gather_backbone(self.method), self.step
        heads = gather_tensors(self.method.exported_heads)
        return lambda: write_backbone(self.folder, step, tensors, self.config, heads)

    def _backward(self, views: Views, targets: Any, *, last: bool) -> Losses:
        """Add the gradient of one micro-batch."""
        with self.parallel.micro_batch(last=last):
            with autocast(self.config, self.device):
                losses = self.parallel.loss_of(views, targets)
            (losses.total / self.config.parallel.accumulate).backward()
        return losses.detach()
