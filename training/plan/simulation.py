"""One micro-batch of the real method on fake tensors: its operations, its bytes at every moment.

Fake tensors have a shape and a dtype but no data: networks, losses and autograd run on them as in a
training, in seconds on a laptop. Nothing here knows the arithmetic of a layer, a head or a loss.

To stay fast, few blocks and small batches are run. A deeper network repeats what one more block
adds: the timeline of two blocks gets what a third one inserts as often as needed (where this does
not hold, all blocks are run). Bytes are affine in the images, and so are operations.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dinoforge.models.attention import attention_as_on_gpus
from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.masks import expected_masked, most_masked
from dinoforge.training.distributed.parallel import checkpoint_blocks
from dinoforge.training.method import Method, Views
from dinoforge.training.plan.ledger import KINDS, PHASES, Array, Ledger

__all__ = ["Flops", "MicroBatch", "Simulation"]

_Figures = dict[str, Array]  # "flops" [7], "alive" [8], and of each phase the timeline

_DEPTHS = (1, 2)  # blocks that are run in place of many


@dataclass(frozen=True)
class Flops:
    """Operations by part, of one micro-batch or of one image."""

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

    def per_image(self, images: int) -> "Flops":
        """Divide by the images of the batch."""
        return Flops(*(size / images for size in vars(self).values()))


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch takes on a rank that holds whole networks."""

    flops: Flops
    crops: int  # bytes of the images as they came, float32
    kept: Mapping[str, int]  # bytes between forward and backward pass, by `KINDS` and targets
    timeline: Mapping[str, Array]  # phase -> bytes that are added, by event and kind

    @property
    def activations(self) -> dict[str, int]:
        """Bytes that autograd keeps, by the part that made them."""
        return {part: self.kept[part] for part in ("backbone", "blocks", "heads", "losses")}

    def peaks(self, *, gradients: float, block_copies: bool) -> dict[str, int]:
        """Most bytes of each phase, beside what exists before the step.

        Parameters
        ----------
        gradients : float
            Share of every gradient that this rank keeps.
        block_copies : bool
            Whether autocast copies the weights of blocks.
        """
        share = dict.fromkeys(KINDS, 1.0) | {"gradients": gradients, "block_copies": block_copies}
        shares = np.array([share[kind] for kind in KINDS])
        alive, peaks = 0.0, {}
        for phase, deltas in self.timeline.items():
            after = alive + np.cumsum(deltas @ shares)
            peaks[phase] = round(after.max(initial=alive))
            alive += (deltas @ shares).sum()
        return peaks


@dataclass(frozen=True)
class _Sizes:
    images: int
    kept: int  # images that a residual branch of the student runs on
    masked: float  # patches; a whole number but for averages


class Simulation:
    """Micro-batches of a recipe on fake tensors.

    Parameters
    ----------
    config : TrainingConfig
    device : str
        ``cuda``: bfloat16 unless the recipe sets float32, flash attention, packed crops. ``cpu``:
        as on CPUs.
    """

    def __init__(self, config: TrainingConfig, device: str = "cuda") -> None:
        self.config, self.device = config, device
        self._depth = config.model.vit(config.crops.global_size).depth
        self._small = _Sizes(images=8 * (config.group_size or 1), kept=2, masked=8)

    def run(self, images: int, masked: int) -> MicroBatch:
        """Run a micro-batch of whole groups of ``group_size``, with so many masked patches."""
        return self._micro_batch(self._figures(self._sizes(images, masked)), images)

    def estimate(self, images: int) -> MicroBatch:
        """Predict what `run` returns, from a few runs that are made once for all sizes.

        Bytes are those of the most masked patches that can be drawn, operations those of what is
        drawn on average.
        """
        masks, patches = self.config.masks, _patches(self.config)
        most = self._predict(self._sizes(images, most_masked(masks, 2 * images, patches)))
        average = expected_masked(masks, 2 * images, patches)
        flops = self._predict(self._sizes(images, average))["flops"]
        return self._micro_batch(most | {"flops": flops}, images)

    def _predict(self, sizes: _Sizes) -> _Figures:
        figures = self._base
        for name, slope in self._slopes.items():
            steps = getattr(sizes, name) - getattr(self._small, name)
            figures = {key: value + steps * slope[key] for key, value in figures.items()}
        return figures

    def _micro_batch(self, figures: _Figures, images: int) -> MicroBatch:
        kept = map(round, figures["kept"].tolist())
        return MicroBatch(
            flops=Flops(*figures["flops"].tolist()),
            crops=4 * 3 * self.config.crops.pixels * images,
            kept=dict(zip((*KINDS, "targets"), kept, strict=True)),
            timeline={phase: figures[phase] for phase in PHASES},
        )

    def _sizes(self, images: int, masked: float) -> _Sizes:
        # Of every crop, each group of images draws a subset of its own.
        group = self.config.group_size or images
        kept = images // group * kept_samples(group, self.config.model.drop_path)
        return _Sizes(images, kept, masked)

    @cached_property
    def _base(self) -> _Figures:
        return self._figures(self._small)

    @cached_property
    def _slopes(self) -> dict[str, _Figures]:
        """What an image, a kept image and a masked patch add to all figures."""
        slopes = {}
        for name, size in vars(self._small).items():
            if name != "kept" or self.config.model.drop_path:
                doubled = self._figures(replace(self._small, **{name: 2 * size}))
                slopes[name] = {k: (doubled[k] - small) / size for k, small in self._base.items()}
        return slopes

    def _figures(self, sizes: _Sizes) -> _Figures:
        few, more = _DEPTHS
        if self._depth > more:
            extended = _extend(self._run(sizes, few), self._run(sizes, more), self._depth - few)
            if extended is not None:
                return extended
        return self._run(sizes, self._depth)

    def _run(self, sizes: _Sizes, depth: int) -> _Figures:
        config, on_gpu = self.config, self.device == "cuda"
        setting = AttentionSetting(
            backend="plain" if config.model.attention == "plain" else "sdpa",
            packed=config.model.packing == "packed" or (on_gpu and config.model.packing == "auto"),
            device=self.device,
        )
        method = build_on_meta(config, setting)
        for networks in (method.student, method.teacher):
            blocks = networks["backbone"].get_submodule("blocks")
            assert isinstance(blocks, torch.nn.ModuleList)
            del blocks[depth:]
        if config.parallel.activation_checkpointing == "blocks":
            checkpoint_blocks(method.student)
        attention = attention_as_on_gpus() if on_gpu else contextlib.nullcontext()
        with FakeTensorMode(allow_non_fake_inputs=True), attention:
            method.to_empty(device="cpu").train()
            views, rows = _inputs(config, sizes, depth)
            return self._step(method, views, rows)

    def _step(self, method: Method, views: Views, rows: list[BlockRows] | None) -> _Figures:
        ledger = Ledger(method, vars(views))
        half = self.config.precision != "float32"
        with ledger:
            ledger.begin("teacher")
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                (targets,) = method.targets([views], 0.05)
            ledger.begin("forward")
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                losses = method(views, targets, rows)
                ledger.begin("end of autocast")
            kept = ledger.alive(vars(targets))
            ledger.begin("backward")
            losses.total.backward()
        flops = [ledger.flops[field.name] for field in fields(Flops)]
        return {
            "flops": np.array(flops, np.float64),
            "kept": np.array(list(kept.values()), np.float64),
            **ledger.timeline(),
        }


def _inputs(
    config: TrainingConfig, sizes: _Sizes, depth: int
) -> tuple[Views, list[BlockRows] | None]:
    crops, images, masked = config.crops, sizes.images, int(sizes.masked)
    views = Views(
        global_crops=torch.empty(2 * images, 3, crops.global_size, crops.global_size),
        local_crops=torch.empty(crops.num_local * images, 3, crops.local_size, crops.local_size),
        masks_BN=torch.empty(2 * images, _patches(config), dtype=torch.bool),
        mask_indices_M=torch.empty(masked, dtype=torch.int64),
        mask_weights_M=torch.empty(masked),
    )
    if not config.model.drop_path:
        return views, None

    rows = [torch.empty(n * sizes.kept, dtype=torch.int64) for n in (2, crops.num_local)]
    return views, [(rows, rows)] * depth


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


def _patches(config: TrainingConfig) -> int:
    """Count the patches of a global crop."""
    return (config.crops.global_size // config.model.patch_size) ** 2
