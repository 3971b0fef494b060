"""How a run is spread over its ranks, and what rank 0 of them holds.

Networks are built on torch's meta device (shapes without values), and the other ranks are torch's
fake process group (collectives that return at once). So FSDP2 itself, called by the function that a
run calls, shards a network over any number of ranks in seconds, on a laptop.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from dinoforge.errors import UsageError
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta
from dinoforge.training.config import Mode, TrainingConfig
from dinoforge.training.distributed.parallel import shard_method
from dinoforge.training.distributed.ranks import local_part
from dinoforge.training.methods.method import Method

__all__ = ["Placement", "fake_ranks", "held_by_rank_0", "method_on_meta", "student_parameters"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Ranks, one process per GPU, and what they share; `of` follows the recipe."""

    ranks: int = 1
    ranks_per_node: int = 1
    mode: Mode = "single"
    shards: int = 1  # ranks that a parameter is divided over; 1: every rank holds all of it

    @classmethod
    def of(cls, config: TrainingConfig, ranks: int = 1, ranks_per_node: int = 8) -> "Placement":
        """Place a recipe without `rank_faults` as `training.distributed.parallel` would."""
        parameters = student_parameters(config)
        mode = config.parallel.resolve_mode(ranks, sum(parameters.values()))
        per_node = min(ranks, ranks_per_node)
        shards = config.parallel.ranks_of_a_copy(mode, ranks, per_node)
        return cls(ranks=ranks, ranks_per_node=per_node, mode=mode, shards=shards)

    @property
    def is_sharded(self) -> bool:
        """True under fsdp and hsdp."""
        return self.mode in ("fsdp", "hsdp")


def method_on_meta(config: TrainingConfig) -> Method:
    """Build student and teacher on the meta device, where no attention is ever computed."""
    return build_on_meta(config, AttentionSetting(backend="sdpa", packed=False, device="meta"))


def student_parameters(config: TrainingConfig) -> dict[str, int]:
    """Count the parameters of each of the student's networks."""
    student = method_on_meta(config).student
    return {name: sum(p.numel() for p in net.parameters()) for name, net in student.items()}


def held_by_rank_0(
    config: TrainingConfig, placement: Placement, networks: str = "student"
) -> dict[str, int]:
    """Count the student's parameters on rank 0, which holds most; the teacher has the same.

    ``networks`` is ``student``, or ``frozen``: the teacher of a distillation, nothing elsewhere.
    By the units that FSDP2 gathers and frees together: ``backbone`` (all but the blocks),
    ``backbone.blocks.N``, ``dino_head``, ``ibot_head``. Raises a `UsageError` if parameters are
    sharded and this process is a rank of a real run.
    """
    method, held = method_on_meta(config), Counter[str]()
    sharded = placement.is_sharded
    with fake_ranks(placement.ranks) if sharded else contextlib.nullcontext():
        if sharded:
            shard_method(config, method, torch.device("cpu"), placement.ranks, placement.shards)
        for name, parameter in getattr(method, networks, nn.Module()).named_parameters():
            unit = name.split(".")[: 3 if name.startswith("backbone.blocks.") else 1]
            held[".".join(unit)] += local_part(parameter).numel()
    return dict(held)


@contextlib.contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Pretend to be rank 0 of so many."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UsageError(
            what="this process is a rank of a run", where="plan", do="plan in another process"
        )
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
