"""One training step on crops of noise, and what can be counted in it: FLOPs, bytes.

What `training.loop.Trainer` does in a step, without data and run folder. Shared by the benchmarks
of the step, on CPUs and GPUs, and by the tests of ``dinoforge plan``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinoforge.training.attention import AttentionSetting, choose_setting
from dinoforge.training.build import build_optimizer
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch
from dinoforge.training.data.views import micro_batches
from dinoforge.training.distributed.parallel import make_parallel
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.guards import check_finite
from dinoforge.training.methods.dino import Targets
from dinoforge.training.methods.method import Losses, Views
from dinoforge.training.precision import autocast
from dinoforge.training.schedules import apply_schedules
from dinoforge.training.updates import clip_gradients, update_teacher

CPU = torch.device("cpu")


class Step:
    """Networks, optimizer and one update of them, with crops that are given.

    Parameters
    ----------
    config : TrainingConfig
        ``parallel`` is followed as on one rank: micro-batches, checkpointing, compilation.
    device : torch.device
    attention : AttentionSetting, optional
        By default what a run would choose on the device.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device = CPU,
        attention: AttentionSetting | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.attention = attention or choose_setting(config, device)
        self.parallel = make_parallel(config, device, RankInfo(), self.attention)
        self.method = self.parallel.method
        self.optimizer = build_optimizer(config, self.method)

    def __call__(self, number: int, global_crops: Tensor, local_crops: Tensor) -> list[Losses]:
        """Do one update; returns the losses of each micro-batch."""
        hyper = apply_schedules(self.config, self.optimizer, number)
        parts = self.views(number, global_crops, local_crops)
        targets = self.targets(parts, hyper["schedule/teacher_temperature"])
        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._backward(views, target) for views, target in zip(parts, targets, strict=True)
        ]
        norms = clip_gradients(dict(self.method.student.items()), self.config.optimizer.clip)
        check_finite(number, losses, norms, [])
        self.optimizer.step()
        update_teacher(self.method.teacher, self.method.student, hyper["schedule/momentum"])
        return losses

    def views(self, number: int, global_crops: Tensor, local_crops: Tensor) -> list[Views]:
        """Cut the crops into micro-batches, with the masks and subsets of a step."""
        images = np.arange(self.config.batch_size)
        batch = Batch(number, global_crops, local_crops, images, table=None)
        return micro_batches(self.config, batch, RankInfo(), self.device)

    def targets(self, parts: Sequence[Views], temperature: float = 0.05) -> list[Targets]:
        """Let the teacher see the micro-batches."""
        with autocast(self.config, self.device):
            return self.method.targets(parts, temperature)

    def forward(self, views: Views, targets: Targets) -> Losses:
        """Run the student on one micro-batch."""
        with autocast(self.config, self.device):
            losses: Losses = self.parallel.loss_of(views, targets)
        return losses

    def _backward(self, views: Views, targets: Targets) -> Losses:
        losses = self.forward(views, targets)
        (losses.total / self.config.parallel.accumulate).backward()
        return losses.detach()


def noise(config: TrainingConfig, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Draw the global and the local crops of a batch."""
    generator = torch.Generator(device).manual_seed(0)
    crops = config.crops
    whole, local = (
        torch.randn(count * config.batch_size, 3, side, side, generator=generator, device=device)
        for count, side in ((2, crops.global_size), (crops.num_local, crops.local_size))
    )
    return whole, local


def masked_patches(parts: Sequence[Views]) -> int:
    """Count the patches that are hidden from the student."""
    return sum(len(views.mask_indices_M) for views in parts)


def count_flops(step: Step, parts: Sequence[Views]) -> int:
    """Count the operations of teacher, student and backward pass; a multiply-add as two.

    What is computed twice counts twice: by activation checkpointing, and the scores of attention
    by the backward kernel of ``sdpa``. Optimizer and teacher update have no products.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    # torch counts the kernels of GPUs alone; those of CPUs take and return the same shapes.
    aten = torch.ops.aten
    counts: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: (  # noqa: SLF001
            lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (  # noqa: SLF001
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        for views, targets in zip(parts, step.targets(parts), strict=True):
            step.forward(views, targets).total.backward()
    step.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@dataclass(frozen=True)
class Saved:
    """Bytes that a forward pass keeps for its backward pass."""

    activations: int
    weight_copies: int  # weights in another dtype than the parameters'


def saved_bytes(step: Step, views: Views) -> Saved:
    """Count the distinct storages that autograd saves of one micro-batch.

    Not what was there before: parameters, crops as they came, targets of the teacher.
    """
    (targets,) = step.targets([views])
    there = (views.global_crops, views.local_crops, targets.cls_BK, targets.patch_MK)
    known = {_place(tensor) for tensor in (*step.method.parameters(), *there)}
    # Prototypes are normalized before they are converted: what is kept of them is no weight.
    copied = [p for n, p in step.method.named_parameters() if not n.endswith("weight_v")]
    shapes = {p.shape for p in copied} | {p.T.shape for p in copied if p.ndim == 2}
    result: dict[int, tuple[int, bool]] = {}
    alive: list[Any] = []  # a freed storage's place would be given to another

    def pack(tensor: Tensor) -> Tensor:
        place = _place(tensor)
        if place not in known and place not in result:
            is_weight = tensor.dtype == torch.bfloat16 and tensor.shape in shapes
            result[place] = (tensor.untyped_storage().nbytes(), is_weight)
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.forward(views, targets)
    return Saved(
        activations=sum(size for size, is_weight in result.values() if not is_weight),
        weight_copies=sum(size for size, is_weight in result.values() if is_weight),
    )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def peak_bytes(step: Step, global_crops: Tensor, local_crops: Tensor) -> int:
    """Most bytes of tensors during the second step of a fresh run, by torch's own allocator.

    The second: from there on moments and the gradients of the step before are there.
    """
    there = sum(p.numel() * p.element_size() for p in step.method.parameters())
    there += sum(b.numel() * b.element_size() for b in step.method.buffers())
    there += sum(crops.numel() * crops.element_size() for crops in (global_crops, local_crops))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        for number in range(2):
            step(number, global_crops, local_crops)
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = there
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
