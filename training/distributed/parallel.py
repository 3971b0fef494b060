"""How one network is spread over ranks: applied from outside, in a fixed order.

Build on the meta device, checkpoint activations, compile, shard, allocate (filled with NaN, so that
uninitialized values show), draw the weights, wrap. The model does not know about it, names of
tensors do not change, and the weights drawn do not depend on the number of ranks.
"""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dinoforge.models.vit import VisionTransformer
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta, draw_method_weights
from dinoforge.training.config import Mode, TrainingConfig
from dinoforge.training.distributed.ranks import RankInfo, local_part
from dinoforge.training.methods.method import Losses, Method, Views
from dinoforge.training.precision import product_dtype

__all__ = ["Parallel", "checkpoint_blocks", "make_parallel", "precision_policies", "shard_method"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parallel:
    """A method that is spread over ranks."""

    method: Method
    mode: Mode
    # the method, or DDP around it
    loss_of: Callable[[Views, Any], Losses]  # views and their targets
    shard_group: dist.ProcessGroup | None  # ranks that hold one copy together, if any do

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Synchronize gradients after the last micro-batch of a step only."""
        for network in self.method.student.values():
            if isinstance(network, FSDPModule):
                network.set_requires_gradient_sync(last)
        if isinstance(self.loss_of, DistributedDataParallel) and not last:
            with self.loss_of.no_sync():
                yield
        else:
            yield


def make_parallel(
    config: TrainingConfig, device: torch.device, rank_info: RankInfo, attention: AttentionSetting
) -> Parallel:
    """Build the method of a recipe on this rank; with several ranks, in their process group.

    Raises a `UsageError` if the batch or the mesh does not divide over the ranks.
    """
    config.check_ranks(rank_info.world_size, rank_info.local_world_size)
    method = build_on_meta(config, attention)
    parameters = sum(parameter.numel() for parameter in method.student.parameters())
    mode = config.parallel.resolve_mode(rank_info.world_size, parameters)
    if config.parallel.activation_checkpointing == "blocks":
        checkpoint_blocks(method.student)
    if config.parallel.compile:
        for networks in method.networks:
            for block in _blocks(networks):
                block.compile(dynamic=False, fullgraph=True)  # equal blocks are compiled once
    mesh = None
    if mode in ("fsdp", "hsdp"):
        copy = config.parallel.ranks_of_a_copy(
            mode, rank_info.world_size, rank_info.local_world_size
        )
        mesh = shard_method(config, method, device, rank_info.world_size, copy)
    method.to_empty(device=device)
    for tensor in method.parameters():
        local_part(tensor.data).fill_(torch.nan)
    for buffer in method.buffers():
        buffer.zero_()  # the centers; others are reset when weights are drawn
    draw_method_weights(config, method)
    method.train()
    loss_of: Any = method
    if mode == "ddp":
        loss_of = DistributedDataParallel(
            method,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_without_buffer_sync(),  # every rank computes the same centers
        )
    if rank_info.world_size > 1:
        _log.info("%d ranks, %s", rank_info.world_size, mode)
    return Parallel(method, mode, loss_of, mesh.get_group("shard") if mesh is not None else None)


def _without_buffer_sync() -> dict[str, Any]:
    new_name = "forward_sync_buffers"  # since torch 2.13, which warns about the old one
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {new_name if new_name in known else "broadcast_buffers": False}


def checkpoint_blocks(student: nn.ModuleDict) -> None:
    """Keep only the input of every block; the rest is recomputed in the backward pass."""
    for block in _blocks(student):
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    # A function of our own: around torch's `checkpoint`, `Module.compile` would compile nothing.
    def run(*args: Any, **kwargs: Any) -> Any:
        # Randomness is drawn outside the blocks, so there is no generator state to restore.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _blocks(networks: nn.ModuleDict) -> Iterator[nn.Module]:
    backbone = networks["backbone"]
    if isinstance(backbone, VisionTransformer):
        yield from backbone.blocks


def shard_method(
    config: TrainingConfig, method: Method, device: torch.device, num_ranks: int, ranks_of_copy: int
) -> DeviceMesh:
    """Make each block of a ViT, each head and the rest of a backbone one unit of FSDP2.

    Student and teacher are sharded in place, by the same rule. Nothing is allocated: networks on
    the meta device stay there, so that a plan shards them as a run does. `ranks_of_copy` ranks hold
    one copy together, a divisor; below `num_ranks` there are several copies (HSDP).

    Returns a mesh with the dimensions ``replicate`` and ``shard``.
    """
    mesh = init_device_mesh(
        device.type,
        (num_ranks // ranks_of_copy, ranks_of_copy),
        mesh_dim_names=("replicate", "shard"),
    )
    used = mesh if ranks_of_copy < num_ranks else mesh["shard"]
    blocks, whole = precision_policies(config, device)
    for networks in method.networks:
        for block in _blocks(networks):
            fully_shard(block, mesh=used, mp_policy=blocks)
        for network in networks.values():
            # The root too: else the teacher, which has no backward pass, stays gathered.
            fully_shard(network, mesh=used, mp_policy=whole, reshard_after_forward=True)
        for name in ("forward_features", "forward_features_list"):
            register_fsdp_forward_method(networks["backbone"], name)
    return mesh


def precision_policies(
    config: TrainingConfig, device: torch.device
) -> tuple[MixedPrecisionPolicy, MixedPrecisionPolicy]:
    """Return the dtypes of gathered units and reduced gradients: of a block, and of the rest.

    Shards, optimizer, teacher and all sums of gradients are float32 in every case (float64 under
    ``precision=float64``).
    """
    reduced = torch.float64 if config.precision == "float64" else torch.float32
    # Blocks are gathered in bfloat16 where autocast would cast them anyway: half the traffic. On a
    # CPU layer norms reject mixed types, and there is little traffic to save.
    half = device.type == "cuda" and product_dtype(config, device) == torch.bfloat16
    blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=reduced,
        cast_forward_inputs=False,  # tokens stay in float32 from block to block
    )
    return blocks, MixedPrecisionPolicy(reduce_dtype=reduced)
