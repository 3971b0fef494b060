"""Make the parts of a training from its recipe: networks, optimizer, schedules, precision."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import torch

from dinoforge.errors import UsageError
from dinoforge.models import build_vit
from dinoforge.models.attention import choose_backend
from dinoforge.randomness import Draws
from training.config import HeadConfig, TrainingConfig
from training.heads import ProjectionHead
from training.method import Method
from training.parameter_groups import optimizer_groups
from training.schedules import Cosine, Linear, scaled_lr

__all__ = ["Schedules", "autocast", "build_method", "build_optimizer", "choose_device"]


def choose_device(config: TrainingConfig) -> torch.device:
    """Resolve ``device`` and set the CPU threads.

    Raises
    ------
    UsageError
        If CUDA is asked for and not there.
    """
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise UsageError(
            what="no CUDA device",
            where="device=cuda",
            do="set device=auto or cpu, or install a CUDA build of torch and a driver",
        )
    return torch.device("cuda" if has_cuda and config.device != "cpu" else "cpu")


def autocast(config: TrainingConfig, device: torch.device) -> Any:
    """Return the context of the forward pass: bfloat16 for matrix products, or nothing."""
    wanted = config.precision == "bfloat16"
    if config.precision == "auto":
        wanted = _multiplies_bfloat16_fast(device)
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _multiplies_bfloat16_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001


def build_method(config: TrainingConfig) -> Method:
    """Build student and teacher; every initial weight is a function of ``seed``."""
    vit = config.model.vit(config.crops.global_size)
    backbone = build_vit(vit, seed=config.seed)
    backbone.set_attention(choose_backend(config.model.attention, choose_device(config).type))
    dino_head = _head(config, "dino_head", vit.width)
    ibot_head = _head(config, "ibot_head", vit.width) if config.separate_heads else None
    return Method(
        backbone,
        dino_head,
        ibot_head,
        balance=config.teacher.balance,
        weights=(config.loss.dino, config.loss.ibot, config.loss.koleo),
        drop_path=config.model.drop_path,
    ).train()


def _head(config: TrainingConfig, name: str, width: int) -> ProjectionHead:
    sizes: HeadConfig = getattr(config, name)
    head = ProjectionHead(
        width,
        hidden=sizes.hidden,
        bottleneck=sizes.bottleneck,
        prototypes=sizes.prototypes,
        layers=sizes.layers,
    )
    # Not seed + 1: then the heads of neighboring seeds would be equal.
    own_seed = Draws(config.seed, f"init/{name}", 0).integer(0, 1 << 53)
    head.init_weights(own_seed, xavier=config.model.init == "xavier")
    return head


def build_optimizer(config: TrainingConfig, method: Method) -> torch.optim.Optimizer:
    """Build AdamW with one group for each set of equal multipliers."""
    groups = optimizer_groups(
        method.student,
        depth=config.model.vit(config.crops.global_size).depth,
        layerwise_decay=config.optimizer.layerwise_decay,
        patch_embed_lr=config.optimizer.patch_embed_lr,
    )
    return torch.optim.AdamW(groups, lr=0.0, betas=config.optimizer.betas, eps=1e-8, fused=True)


@dataclass(frozen=True)
class Schedules:
    """Every value that changes over the run, as functions of the step."""

    lr: Cosine
    last_layer_lr: Cosine
    weight_decay: Cosine
    momentum: Cosine
    temperature: Linear

    @classmethod
    def of(cls, config: TrainingConfig) -> "Schedules":
        """Make the schedules of a recipe."""
        optimizer, teacher, total = config.optimizer, config.teacher, config.steps
        base = scaled_lr(optimizer.lr, config.batch_size, optimizer.lr_rule)
        warmup, frozen = config.warmup, config.freeze_last_layer
        return cls(
            lr=Cosine(base, optimizer.lr_end, total, warmup),
            last_layer_lr=Cosine(base, optimizer.lr_end, total, warmup, frozen=frozen),
            weight_decay=Cosine(optimizer.weight_decay_start, optimizer.weight_decay_end, total),
            momentum=Cosine(teacher.momentum_start, teacher.momentum_end, total),
            temperature=Linear(
                teacher.temperature_start, teacher.temperature, config.temperature_warmup
            ),
        )

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Set the optimizer's values for a step; returns all values for the metrics."""
        lr, last_lr, decay = self.lr(step), self.last_layer_lr(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = (last_lr if group["is_last_layer"] else lr) * group["lr_multiplier"]
            group["weight_decay"] = decay * group["weight_decay_multiplier"]
        return {
            "schedule/lr": lr,
            "schedule/last_layer_lr": last_lr,
            "schedule/weight_decay": decay,
            "schedule/momentum": self.momentum(step),
            "schedule/teacher_temperature": self.temperature(step),
        }
