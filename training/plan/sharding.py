"""Shard a recipe's networks as a run does, without memory or other ranks, and count the parts.

The networks stand on torch's meta device (shapes without values), the other ranks are torch's fake
process group (collectives that return at once). So FSDP2 itself, called by the function that a run
calls, says in seconds and on a laptop what rank 0 of any number of ranks holds.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from dinoforge.errors import UsageError
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.parallel import shard_method
from dinoforge.training.distributed.ranks import local_part
from dinoforge.training.method import Method
from dinoforge.training.plan.parameters import largest_part, student_units
from dinoforge.training.plan.placement import Placement

__all__ = ["check_sharding", "method_on_meta", "sharded_parameters"]


def method_on_meta(config: TrainingConfig) -> Method:
    """Build student and teacher on the meta device, where no attention is ever computed."""
    return build_on_meta(config, AttentionSetting(backend="sdpa", packed=False, device="meta"))


def check_sharding(config: TrainingConfig, placement: Placement) -> int:
    """Compare the closed forms with the networks themselves; returns what rank 0 holds.

    Parameters
    ----------
    config : TrainingConfig
    placement : Placement
        Of this recipe.

    Returns
    -------
    int
        Parameters of the student on rank 0.
    """
    shards = placement.shards
    counted = sum(largest_part(shapes, shards) for shapes in student_units(config).values())
    if placement.is_sharded:
        built = sum(sharded_parameters(config, placement).values())
    else:
        built = sum(p.numel() for p in method_on_meta(config).student.parameters())
    assert built == counted, f"rank 0 holds {built} parameters, the closed forms say {counted}"
    return built


def sharded_parameters(config: TrainingConfig, placement: Placement) -> dict[str, int]:
    """Count what rank 0 holds of every network of the student; the teacher is the same.

    Parameters
    ----------
    config : TrainingConfig
    placement : Placement
        With mode fsdp or hsdp.

    Returns
    -------
    dict
        ``backbone``, ``dino_head``, ``ibot_head`` -> parameters of the local parts.

    Raises
    ------
    UsageError
        If this process is a rank of a real run.
    """
    assert placement.is_sharded, placement
    method = method_on_meta(config)
    with _fake_ranks(placement.ranks):
        shard_method(config, method, torch.device("cpu"), placement.ranks, placement.shards)
        student, teacher = _held(method.student), _held(method.teacher)
    assert student == teacher, "student and teacher are sharded by the same rule"
    return student


def _held(networks: nn.ModuleDict) -> dict[str, int]:
    return {
        name: sum(local_part(parameter).numel() for parameter in network.parameters())
        for name, network in networks.items()
    }


@contextlib.contextmanager
def _fake_ranks(ranks: int) -> Iterator[None]:
    """Pretend to be rank 0 of so many."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UsageError(
            what="this process is a rank of a run",
            where="plan",
            do="plan in a process of its own",
        )
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
