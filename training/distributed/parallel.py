"""How one network is spread over ranks: applied from outside, in one order that can be read.

Build on the meta device, recompute activations, compile, shard, allocate (filled with NaN, so that
what is never initialized shows), draw the weights, wrap. The model knows nothing of it, names of
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

from dinoforge.models.layers import BlockRows
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta, draw_method_weights
from dinoforge.training.config import Mode, TrainingConfig
from dinoforge.training.distributed.ranks import RankInfo, local_part
from dinoforge.training.method import Losses, Method, Targets, Views
from dinoforge.training.precision import product_dtype

__all__ = ["Parallel", "make_parallel", "precision_policies", "shard_method"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parallel:
    """A method that is spread over ranks."""

    method: Method
    mode: Mode
    loss_of: Callable[
        [Views, Targets, list[BlockRows] | None], Losses
    ]  # the method, or DDP around it
    shard_group: dist.ProcessGroup | None  # ranks that hold one copy together; None: each alone

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Exchange gradients after the last micro-batch of a step only."""
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
    """Build the method of a recipe on this rank.

    Parameters
    ----------
    config : TrainingConfig
        ``parallel`` says how; it changes speed and memory, not results.
    device : torch.device
        Of this rank.
    rank_info : RankInfo
        Its place; the process group must be there if there are several.
    attention : AttentionSetting
        What the run settled on.

    Raises
    ------
    UsageError
        If the batch or the mesh does not divide over the ranks.
    """
    config.check_ranks(rank_info.world_size, rank_info.local_world_size)
    method = build_on_meta(config, attention)
    parameters = sum(parameter.numel() for parameter in method.student.parameters())
    mode = config.parallel.resolve_mode(rank_info.world_size, parameters)
    if config.parallel.activation_checkpointing == "blocks":
        _checkpoint_blocks(method.student)
    if config.parallel.compile:
        _compile_blocks(method)
    mesh = None
    if mode in ("fsdp", "hsdp"):
        copy = config.parallel.ranks_of_a_copy(
            mode, rank_info.world_size, rank_info.local_world_size
        )
        mesh = shard_method(config, method, device, rank_info.world_size, copy)
    _allocate(method, device)
    draw_method_weights(config, method)
    method.train()
    loss_of: Any = method
    if mode == "ddp":
        loss_of = DistributedDataParallel(
            method,
            device_ids=[device.index] if device.type == "cuda" else None,
            **_leave_buffers_alone(),  # every rank computes the same centers
            gradient_as_bucket_view=True,
        )
    group = mesh.get_group("shard") if mesh is not None else None
    if rank_info.world_size > 1:
        _log.info("%d ranks, %s", rank_info.world_size, mode)
    return Parallel(method, mode, loss_of, group)


def _leave_buffers_alone() -> dict[str, Any]:
    new_name = "forward_sync_buffers"  # since torch 2.13, which warns of the old one
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {new_name if new_name in known else "broadcast_buffers": False}


def _checkpoint_blocks(student: nn.ModuleDict) -> None:
    """Keep of every block its input only; the rest is computed again in the backward pass."""
    for block in student["backbone"].get_submodule("blocks").children():
        # Randomness is drawn outside the blocks, so no generator has to be restored.
        block.forward = _computed_again(block.forward)


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    # A function of our own: around torch's itself `Module.compile` would compile nothing.
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _compile_blocks(method: Method) -> None:
    """Compile block by block: one block is compiled once for all of its like."""
    for networks in (method.student, method.teacher):
        for block in networks["backbone"].get_submodule("blocks").children():
            block.compile(dynamic=False, fullgraph=True)


def shard_method(
    config: TrainingConfig, method: Method, device: torch.device, num_ranks: int, ranks_of_copy: int
) -> DeviceMesh:
    """Make each block, each head and the rest of a backbone a unit that is gathered at once.

    Nothing is allocated: networks on the meta device stay there, so that a plan shards them as a
    run does.

    Parameters
    ----------
    config : TrainingConfig
        Its precision decides in which dtypes units are gathered and gradients reduced.
    method : Method
        Student and teacher are sharded in place, by the same rule.
    device : torch.device
        Where the run computes.
    num_ranks, ranks_of_copy : int
        Ranks, and how many of them hold one copy together: a divisor. Fewer than all: there are
        several copies (HSDP).

    Returns
    -------
    DeviceMesh
        With the dimensions ``replicate`` and ``shard``.
    """
    mesh = init_device_mesh(
        device.type,
        (num_ranks // ranks_of_copy, ranks_of_copy),
        mesh_dim_names=("replicate", "shard"),
    )
    used = mesh if ranks_of_copy < num_ranks else mesh["shard"]
    blocks, whole = precision_policies(config, device)
    for networks in (method.student, method.teacher):
        backbone = networks["backbone"]
        for block in backbone.get_submodule("blocks").children():
            fully_shard(block, mesh=used, mp_policy=blocks)
        for network in networks.values():
            # The root too: else a teacher that only looks would keep its weights gathered.
            fully_shard(network, mesh=used, mp_policy=whole, reshard_after_forward=True)
        for name in ("forward_features", "forward_features_list"):
            register_fsdp_forward_method(backbone, name)
    return mesh


def precision_policies(
    config: TrainingConfig, device: torch.device
) -> tuple[MixedPrecisionPolicy, MixedPrecisionPolicy]:
    """Say in which dtypes units are gathered and their gradients reduced.

    Returns
    -------
    tuple of MixedPrecisionPolicy
        Of a block, and of a head or the rest of a backbone. Shards, optimizer and teacher are
        float32 (float64 under ``precision=float64``) in every case, and so are all sums of
        gradients.
    """
    reduced = torch.float64 if config.precision == "float64" else torch.float32
    # Blocks are gathered in half precision where autocast would halve them anyway: half the
    # traffic. On a CPU layer norms refuse mixed types, and there is no network to save.
    half = device.type == "cuda" and product_dtype(config, device) == torch.bfloat16
    blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=reduced,
        cast_forward_inputs=False,  # tokens stay in float32 from block to block
    )
    return blocks, MixedPrecisionPolicy(reduce_dtype=reduced)


def _allocate(method: Method, device: torch.device) -> None:
    method.to_empty(device=device)
    for tensor in method.parameters():
        local_part(tensor.data).fill_(torch.nan)
    for buffer in method.buffers():
        buffer.zero_()  # the centers
