"""The ranks of a run: processes that train one network together, started by any launcher.

A launcher (``--on local:N``, a cluster's job, torchrun) sets RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them there is one rank and no process group.
Losses depend on the global batch only through the sums made here, so 1 rank and N ranks give the
same numbers for the same images.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinoforge.errors import RankStopped, UsageError

__all__ = [
    "RankInfo",
    "all_gather_objects",
    "from_rank_0",
    "highest_over_ranks",
    "local_part",
    "on_rank_0",
    "rank",
    "sum_over_ranks",
    "world_size",
]

T = TypeVar("T")


@dataclass(frozen=True)
class RankInfo:
    """What the launcher set for this process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine: which GPU
    local_world_size: int = 1

    @classmethod
    def of_environment(cls) -> "RankInfo":
        """Read the launcher's variables; raises if some are set and others missing or invalid."""
        env = os.environ
        if "WORLD_SIZE" not in env:
            return cls()
        try:
            number, size = int(env["RANK"]), int(env["WORLD_SIZE"])
            local = int(env.get("LOCAL_RANK", number))
            return cls(number, size, local, int(env.get("LOCAL_WORLD_SIZE", size)))
        except (KeyError, ValueError) as error:
            raise UsageError(
                what=f"incomplete rank environment: {error}",
                where="RANK, WORLD_SIZE, LOCAL_RANK",
                do="let a launcher set them all, or unset WORLD_SIZE for one process",
            ) from error


def world_size() -> int:
    """Return the number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks (every rank must call it); returns a new tensor."""
    if not dist.is_initialized():
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that may be sharded, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def highest_over_ranks(value: int) -> int:
    """Return the largest of the ranks' values; every rank must call it."""
    if not dist.is_initialized():
        return value
    box = torch.tensor([value])  # on the CPU: no wait for a GPU's queue
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box.item())


def from_rank_0(value: T) -> T:
    """Return the value that rank 0 passed; every rank must call it."""
    if not dist.is_initialized():
        return value
    box: list[Any] = [value if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def all_gather_objects(value: T, group: Any = None) -> list[T]:
    """Return the values of all ranks, in their order; every rank must call it."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def on_rank_0(action: Callable[[], T]) -> T | None:
    """Run an action on rank 0 while the others wait; they get None.

    If it fails, rank 0 raises its error and the others raise `RankStopped`.
    """
    result: T | None = None
    failure: BaseException | None = None
    if rank() == 0:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001 - raised below, after the others know
            failure = error
    code = from_rank_0(getattr(failure, "exit_code", 1) if failure is not None else 0)
    if code:
        raise failure or RankStopped(code)
    return result
