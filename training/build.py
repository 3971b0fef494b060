"""Make the parts of a training from its recipe: device, networks, optimizer."""

import os
from dataclasses import asdict

import torch

from dinoforge.device import resolve_device
from dinoforge.models.vit import VisionTransformer
from dinoforge.randomness import Draws
from dinoforge.training.attention import AttentionSetting, choose_setting
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.heads import ProjectionHead
from dinoforge.training.method import Method
from dinoforge.training.parameter_groups import optimizer_groups

__all__ = [
    "build_method",
    "build_on_meta",
    "build_optimizer",
    "choose_device",
    "draw_method_weights",
    "probable_device",
]


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
    attention = attention or choose_setting(config, choose_device(config))
    method = build_on_meta(config, attention).to_empty(device="cpu")
    for center in (method.dino_center, method.ibot_center):
        center.center.zero_()
    draw_method_weights(config, method)
    return method.train()


def build_on_meta(config: TrainingConfig, attention: AttentionSetting) -> Method:
    """Build student and teacher on the meta device: shapes and names, no memory."""
    vit = config.model.vit(config.crops.global_size)
    with torch.device("meta"):
        backbone = VisionTransformer(vit)
        backbone.set_attention(attention.backend)
        heads = [config.dino_head, config.ibot_head][: 1 + config.separate_heads]
        method = Method(
            backbone,
            *(ProjectionHead(vit.width, **asdict(sizes)) for sizes in heads),
            balance=config.teacher.balance,
            weights=(config.loss.dino, config.loss.ibot, config.loss.koleo),
            group_size=config.group_size,
            packed=attention.packed,
        )
    return method.to(torch.float64) if config.precision == "float64" else method


@torch.no_grad()
def draw_method_weights(config: TrainingConfig, method: Method) -> None:
    """Draw the student's weights from ``seed`` and copy them to the teacher.

    Every rank draws whole tensors, one at a time, and keeps its shard.
    """
    for name, network in method.student.items():
        if isinstance(network, VisionTransformer):
            network.init_weights(config.seed)
        else:
            assert isinstance(network, ProjectionHead)
            # Not seed + 1: heads of consecutive seeds would then be equal.
            own_seed = Draws(config.seed, f"init/{name}", 0).integer(0, 1 << 53)
            network.init_weights(own_seed, xavier=config.model.init == "xavier")
    pairs = zip(method.teacher.parameters(), method.student.parameters(), strict=True)
    for teacher, student in pairs:
        teacher.copy_(student)


def build_optimizer(config: TrainingConfig, method: Method) -> torch.optim.Optimizer:
    """Build AdamW with one group per set of equal multipliers."""
    groups = optimizer_groups(
        method.student,
        depth=config.model.vit(config.crops.global_size).depth,
        layerwise_decay=config.optimizer.layerwise_decay,
        patch_embed_lr=config.optimizer.patch_embed_lr,
    )
    return torch.optim.AdamW(groups, lr=0.0, betas=config.optimizer.betas, eps=1e-8, fused=True)
