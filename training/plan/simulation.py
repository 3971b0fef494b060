"""One micro-batch of the real method on fake tensors: its operations, its bytes at every moment.

Fake tensors have a shape and a dtype but no data: networks, losses and autograd run on them as in a
training, in seconds on a laptop. Nothing here knows the arithmetic of a layer, a head or a loss.

To stay fast, few blocks and small batches are run. A deeper network repeats what one more block
adds: the timeline of one block gets what a second one inserts as often as needed (where this does
not hold, all blocks are run). Bytes are affine in the images, and so are operations.
"""

import contextlib
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dinoforge.models.attention import attention_as_on_gpus
from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta
from dinoforge.training.config import ModelConfig, TrainingConfig
from dinoforge.training.data.masks import expected_masked, most_masked
from dinoforge.training.distributed.parallel import checkpoint_blocks
from dinoforge.training.methods.method import Views
from dinoforge.training.plan.ledger import KINDS, PHASES, Array, Ledger

__all__ = ["Flops", "MicroBatch", "Simulation"]

_Figures = dict[str, Array]  # "flops" [7]; by phase the bytes added [events, len(KINDS)]


@dataclass(frozen=True)
class Flops:
    """Operations per image, by part."""

    teacher_backbone: float
    teacher_heads: float
    student_backbone: float  # forward and backward
    student_heads: float  # forward and backward
    student_losses: float  # neighbors of KoLeo
    # computed a second time in the backward pass, which the method does not ask for
    attention_again: float  # scores, by flash attention
    blocks_again: float  # with activation checkpointing

    @property
    def model(self) -> float:
        """What the method needs: the base of MFU."""
        return self.executed - self.attention_again - self.blocks_again

    @property
    def executed(self) -> float:
        """What the machine does."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch takes on a rank that holds whole networks."""

    images: int
    figures: _Figures

    @property
    def flops(self) -> Flops:
        """Operations per image."""
        return Flops(*(self.figures["flops"] / self.images).tolist())

    @property
    def kept(self) -> dict[str, int]:
        """Bytes between forward and backward pass, by kind."""
        forward = np.concatenate([self.figures[phase] for phase in PHASES[:-1]])
        return dict(zip(KINDS, map(round, forward.sum(axis=0).tolist()), strict=True))

    def peaks(self, **shares: float) -> dict[str, int]:
        """Most bytes of each phase, beside what exists before the step; of some kinds a share."""
        weights = np.array([shares.get(kind, 1.0) for kind in KINDS])
        alive, peaks = 0.0, {}
        for phase in PHASES:
            added = self.figures[phase] @ weights
            peaks[phase] = round((alive + np.cumsum(added)).max(initial=alive))
            alive += added.sum()
        return peaks


class Simulation:
    """Micro-batches of a recipe, computed as on CPUs, or as on ``cuda`` with flash attention."""

    def __init__(self, config: TrainingConfig, device: str = "cuda", ranks: int = 1) -> None:
        self.config, self.device, self.ranks = config, device, ranks
        size, model = config.crops.global_size, config.model
        self._vit = model.vit(size) if model.is_vit else None
        self._patches = (size // model.patch_size) ** 2 if model.is_vit else 1
        kept = [2] if config.model.drop_path else []
        self._small = np.array([8 * (config.group_size or 1), *kept, 8], np.float64)

    def run(self, images: int, masked: int) -> MicroBatch:
        """Run a micro-batch of whole groups of ``group_size``, with so many masked patches."""
        return MicroBatch(images, self._figures(self._sizes(images, masked)))

    def estimate(self, images: int) -> MicroBatch:
        """Predict what `run` returns, from a few runs that are made once for all sizes.

        Bytes are those of the most masked patches that can be drawn, operations those of what is
        drawn on average.
        """
        if self.config.method == "distillation":  # all patches are compared
            return MicroBatch(
                images, self._predict(self._sizes(images, 2 * images * self._patches))
            )
        batch = self.config.masks, 2 * images, self._patches
        most = self._predict(self._sizes(images, most_masked(*batch)))
        average = self._predict(self._sizes(images, expected_masked(*batch)))
        return MicroBatch(images, most | {"flops": average["flops"]})

    def _predict(self, sizes: Array) -> _Figures:
        figures, slopes = self._small_batch
        for steps, slope in zip(sizes - self._small, slopes, strict=True):
            figures = {key: value + steps * slope[key] for key, value in figures.items()}
        return figures

    def _sizes(self, images: int, masked: float) -> Array:
        """Images; under stochastic depth, those that a branch of the student runs on; patches."""
        drop_path, group = self.config.model.drop_path, self.config.group_size or images
        # Of every crop, each group of images draws a subset of its own.
        if self.config.model.drop_path_rule == "sample":  # on average over the blocks
            kept = [round(images * (1 - drop_path / 2))] if drop_path else []
        else:
            kept = [images // group * kept_samples(group, drop_path)] if drop_path else []
        return np.array([images, *kept, masked], np.float64)

    @cached_property
    def _small_batch(self) -> tuple[_Figures, list[_Figures]]:
        """Figures of a small batch, and what each of its sizes adds to them when it grows by 1."""
        base, slopes = self._figures(self._small), []
        for size, axis in zip(self._small, np.eye(len(self._small)), strict=True):
            doubled = self._figures(self._small + size * axis)
            slopes.append({key: (doubled[key] - small) / size for key, small in base.items()})
        return base, slopes

    def _figures(self, sizes: Array) -> _Figures:
        if self._vit is None:
            return self._run(sizes, self.config.model, 0)
        if self._vit.depth > 2:
            one, two = (self._run(sizes, self._of_depth(depth), depth) for depth in (1, 2))
            extended = _extend(one, two, self._vit.depth - 1)
            if extended is not None:
                return extended
        return self._run(sizes, self._of_depth(self._vit.depth), self._vit.depth)

    def _of_depth(self, depth: int) -> ModelConfig:
        whole = {key: getattr(self._vit, key) for key in ("width", "heads", "ffn")}
        return replace(self.config.model, architecture="custom", depth=depth, **whole)

    def _run(self, sizes: Array, model: ModelConfig, depth: int) -> _Figures:
        config, on_gpu = self.config, self.device == "cuda"
        setting = AttentionSetting(
            backend="plain" if config.model.attention == "plain" else "sdpa",
            packed=config.model.packing == "packed" or (on_gpu and config.model.packing == "auto"),
            device=self.device,
        )
        method = build_on_meta(replace(config, model=model), setting)
        if config.parallel.activation_checkpointing == "blocks":
            checkpoint_blocks(method.student)
        half = config.precision != "float32"
        autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=half)
        attention = attention_as_on_gpus() if on_gpu else contextlib.nullcontext()
        with FakeTensorMode(allow_non_fake_inputs=True), attention:
            method.to_empty(device="cpu").train()
            views = self._inputs(sizes, depth)
            inputs = (value for value in vars(views).values() if isinstance(value, Tensor))
            with Ledger(method, inputs) as ledger:
                ledger.begin("teacher")
                with autocast():
                    (targets,) = method.targets([views], 0.05)
                ledger.begin("forward")
                with autocast():
                    losses = method(views, targets)
                    ledger.begin("end of autocast")
                ledger.begin("backward")
                losses.total.backward()
            flops = [float(ledger.flops[field.name]) for field in fields(Flops)]
            outputs = () if targets is None else vars(targets).values()
            return {"flops": np.array(flops), **ledger.timeline(outputs)}

    def _inputs(self, sizes: Array, depth: int) -> Views:
        crops = self.config.crops
        images, *kept, masked = (int(size) for size in sizes)
        num_local = crops.num_local * images
        rows = [torch.empty(n * k, dtype=torch.int64) for k in kept for n in (2, crops.num_local)]
        return Views(
            global_crops=torch.empty(2 * images, 3, crops.global_size, crops.global_size),
            local_crops=torch.empty(num_local, 3, crops.local_size, crops.local_size),
            masks_BN=torch.empty(2 * images, self._patches, dtype=torch.bool),
            mask_indices_M=torch.empty(masked, dtype=torch.int64),
            mask_weights_M=torch.empty(masked),
            rows=[BlockRows(rows, rows)] * depth if kept else None,
            **self._support(),
        )

    def _support(self) -> dict[str, Tensor]:
        """Labeled crops of a micro-batch on one of so many ranks."""
        if not self.config.has_support:
            return {}
        side, rows = self.config.crops.global_size, self.config.support_crops(self.ranks)
        crops = torch.empty(rows, 3, side, side)
        return {"support": crops, "support_classes": torch.zeros(rows, dtype=torch.int64)}


def _extend(few: _Figures, more: _Figures, blocks: int) -> _Figures | None:
    """Add so many blocks, each as the one that ``more`` has beyond ``few``; None: not possible."""
    figures = {}
    for key, short in few.items():
        long = more[key]
        added = len(long) - len(short)
        if not added:
            figures[key] = short + blocks * (long - short)
            continue
        # Events that are equal, counted from the start and from the end: the insertion is between.
        start = np.argmin([*(long[: len(short)] == short).all(axis=1), False])
        end = np.argmin([*(long[added:] == short).all(axis=1)[::-1], False])
        if start + end < len(short):
            return None
        inserted = np.tile(long[start : start + added], (blocks, 1))
        figures[key] = np.concatenate([short[:start], inserted, short[start:]])
    return figures
