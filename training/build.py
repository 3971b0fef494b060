"""Make the parts of a training from its recipe: device, networks, optimizer."""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dinoforge.device import resolve_device
from dinoforge.errors import UsageError
from dinoforge.models.init import assign
from dinoforge.models.pooled.building import build_pooled
from dinoforge.models.pooled.files import is_pooled, load_pooled
from dinoforge.models.pooled.heads import open_heads, prediction_layers, projection_layers
from dinoforge.models.pooled.network import PooledNetwork
from dinoforge.models.pooled.timm_network import TimmNetwork, check_sides
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import check_match, load_backbone
from dinoforge.randomness import Draws
from dinoforge.steps import exported_steps
from dinoforge.training.attention import AttentionSetting, choose_setting
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.checkpoint import load_teacher
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.frozen_teacher import recipe_of_frozen, settle_frozen
from dinoforge.training.heads import ProjectionHead, draw_layers
from dinoforge.training.methods.dino import Dino
from dinoforge.training.methods.distillation import Distillation
from dinoforge.training.methods.method import Method
from dinoforge.training.methods.paws import Paws
from dinoforge.training.methods.suncet import Suncet
from dinoforge.training.methods.supervised import Supervised
from dinoforge.training.optimizers import Sgd
from dinoforge.training.parameter_groups import optimizer_groups

__all__ = [
    "build_backbone",
    "build_method",
    "build_on_meta",
    "build_optimizer",
    "choose_device",
    "draw_method_weights",
    "probable_device",
]

_log = logging.getLogger(__name__)


def choose_device(config: TrainingConfig, rank_info: RankInfo | None = None) -> torch.device:
    """Resolve ``device`` for this rank and set its CPU threads; raises if CUDA is unavailable."""
    rank_info = rank_info or RankInfo.of_environment()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(config.threads or max(1, cores // rank_info.local_world_size))
    device = resolve_device(config.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank_info.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def probable_device(config: TrainingConfig) -> torch.device:
    """Return the device whose tensors ranks will exchange, before any of them uses it."""
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def build_method(config: TrainingConfig, attention: AttentionSetting | None = None) -> Method:
    """Build student and teacher on the CPU; every initial weight is a function of ``seed``.

    Without `attention`, with the setting that a new run would choose here.
    """
    config = settle_frozen(config, Path(config.out))
    attention = attention or choose_setting(config, choose_device(config))
    method = build_on_meta(config, attention).to_empty(device="cpu")
    for buffer in method.buffers():
        buffer.zero_()  # the centers
    draw_method_weights(config, method)
    return method.train()


def build_on_meta(config: TrainingConfig, attention: AttentionSetting) -> Method:
    """Build student and teacher on the meta device: shapes and names, no memory."""
    with torch.device("meta"):
        backbone = build_backbone(config)
        if isinstance(backbone, VisionTransformer):
            backbone.set_attention(attention.backend)
        if config.method == "supervised":
            method: Method = Supervised(backbone, _width(backbone), config.support.num_classes)
        else:
            build = _paws if config.has_support else _dino
            method = build(config, backbone, packed=attention.packed)
    method.freeze_statistics = config.start.freeze_statistics
    return method.to(torch.float64) if config.precision == "float64" else method


def build_backbone(config: TrainingConfig) -> VisionTransformer | PooledNetwork:
    """Build the backbone; its weights are meaningless until drawn.

    Raises a `UsageError` if timm lacks it, it fails on images of the size of crops, or its
    normalization rules out micro-batches.
    """
    if config.model.is_vit:
        return VisionTransformer(config.model.vit(config.crops.global_size))
    backbone = build_pooled(config.model.architecture)
    if isinstance(backbone, TimmNetwork):
        sides = {"crops.global_size": config.crops.global_size}
        if config.crops.num_local:
            sides["crops.local_size"] = config.crops.local_size
        check_sides(backbone, sides)
    if backbone.has_batch_norm and config.parallel.accumulate > 1:
        raise UsageError(
            what=f"`parallel.accumulate` {config.parallel.accumulate} with {backbone.name}",
            where="recipe",
            do="give parallel.accumulate=1: batch statistics are those of a whole step",
        )
    return backbone


def _width(backbone: VisionTransformer | PooledNetwork) -> int:
    return backbone.config.width if isinstance(backbone, VisionTransformer) else backbone.width


def _dino(
    config: TrainingConfig, backbone: VisionTransformer | PooledNetwork, *, packed: bool
) -> Method:
    build: Callable[..., Dino] = Dino
    if config.method == "distillation":
        recipe = recipe_of_frozen(config)
        # Attention by the default back end: that of the student may not support other heads.
        frozen = build_backbone(recipe)
        build = partial(Distillation, nn.ModuleDict({"backbone": frozen, **_heads(recipe, frozen)}))
    method = build(
        backbone,
        **_heads(config, backbone),
        balance=config.teacher.balance,
        weights=(config.loss.dino, config.loss.ibot, config.loss.koleo),
        group_size=config.group_size,
        packed=packed,
    )
    method.mean_of_pairs = config.method == "dino"
    return method


def _heads(
    config: TrainingConfig, backbone: VisionTransformer | PooledNetwork
) -> dict[str, ProjectionHead]:
    heads = {"dino_head": config.dino_head}
    if config.method != "dino" and config.separate_heads:
        heads["ibot_head"] = config.ibot_head
    return {n: ProjectionHead(_width(backbone), **asdict(sizes)) for n, sizes in heads.items()}


def _paws(
    config: TrainingConfig, backbone: VisionTransformer | PooledNetwork, *, packed: bool
) -> Method:
    settings, width = config.paws, _width(backbone)
    kind: dict[str, Any] = {"normalized": settings.normalized, "activation": settings.activation}
    projection = projection_layers(width, settings.hidden, settings.width, **kind)
    prediction = prediction_layers(settings.width, **kind)
    return (Suncet if config.method == "suncet" else Paws)(
        backbone,
        projection,
        prediction if settings.prediction else None,
        num_classes=config.support.num_classes,
        settings=settings,
        accumulated=config.parallel.accumulate,
        packed=packed,
    )


@torch.no_grad()
def draw_method_weights(config: TrainingConfig, method: Method) -> None:
    """Draw the student's weights from ``seed`` or read them, and copy them to the teacher.

    Every rank draws whole tensors, one at a time, and keeps its shard.

    A frozen teacher is read from the checkpoint that `settle_frozen` chose.

    Raises a `UsageError` if `start.weights` are missing or of another network.
    """
    for name, network in method.student.items():
        if isinstance(network, VisionTransformer | PooledNetwork):
            network.init_weights(config.seed)
            continue
        # Not seed + 1: heads of consecutive seeds would then be equal.
        own_seed = Draws(config.seed, f"init/{name}", 0).integer(0, 1 << 53)
        if isinstance(network, ProjectionHead):
            network.init_weights(own_seed, xavier=config.model.init == "xavier")
        else:
            draw_layers(network, own_seed)
    if isinstance(method, Supervised):
        method.zero_classifier()
    if config.start.weights:
        _read_start(Path(config.start.weights), method.student)
    if isinstance(method, Distillation):
        load_teacher(Path(config.teacher.frozen), method.frozen)
    if method.teacher:
        pairs = zip(method.teacher.parameters(), method.student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.copy_(student)
        buffers = zip(method.teacher.buffers(), method.student.buffers(), strict=True)
        for of_teacher, of_student in buffers:
            of_teacher.copy_(of_student)


def _read_start(path: Path, student: nn.ModuleDict) -> None:
    exports = exported_steps(path)
    if exports:
        path = exports[max(exports)]
    elif not path.is_file():
        raise UsageError(
            what=f"no weights in {path}",
            where="`start.weights`",
            do="give the run folder of a training that has exported, or the file of a backbone",
        )
    backbone = load_pooled(path)[0] if is_pooled(path) else load_backbone(path)[0]
    read = {"backbone": backbone, **open_heads(path)}
    for name in [name for name in read if name in student]:
        start = "" if name == "backbone" else f"{name}."
        tensors, own = (
            {f"{start}{n}": tensor for n, tensor in network.state_dict().items()}
            for network in (read[name], student[name])
        )
        check_match(own, tensors, str(path))
        for tensor_name, tensor in own.items():
            assign(tensor, tensors[tensor_name])
    for name in [name for name in student if name not in read]:
        _log.info("`start.weights`: %s has no %s: its weights are drawn", path, name)
    for name in [name for name in read if name not in student]:
        _log.info("`start.weights`: %s of %s is left out: the method has none", name, path)


def build_optimizer(
    config: TrainingConfig, method: Method, shard_group: dist.ProcessGroup | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer with one group per set of equal multipliers.

    ``shard_group`` are the ranks that hold one copy of the weights together, if any do.
    """
    settings, is_vit = config.optimizer, config.model.is_vit
    groups = optimizer_groups(
        method.student,
        depth=config.model.vit(config.crops.global_size).depth if is_vit else 0,
        layerwise_decay=settings.layerwise_decay if is_vit else 1.0,
        patch_embed_lr=settings.patch_embed_lr if is_vit else 1.0,
    )
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=True)
    for group in groups:
        # What is not decayed has no rate of its own either, as published.
        is_adapted = settings.name == "lars" and group["weight_decay_multiplier"]
        group["trust"] = settings.trust if is_adapted else 0.0
    return Sgd(
        groups, momentum=settings.momentum, buffer=settings.momentum_of, shard_group=shard_group
    )
