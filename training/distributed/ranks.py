"""The ranks of a run: processes that train one network together, started by any launcher.

A launcher (``--on local:N``, a cluster's job, torchrun) sets RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them there is one rank and no process group.
Losses depend on the global batch only through the sums made here, so 1 rank and N ranks give the
same numbers for the same images.
"""

import contextlib
import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinoforge.errors import DinoforgeError, RankLost, RankStopped, UsageError
from dinoforge.training.distributed.failures import (
    Heartbeat,
    announce_end,
    is_reported_by_another_rank,
)

__all__ = [
    "RankInfo",
    "all_gather_objects",
    "from_rank_0",
    "highest_over_ranks",
    "join_ranks",
    "local_part",
    "on_rank_0",
    "rank",
    "sum_over_ranks",
    "world_size",
]

T = TypeVar("T")

_FAREWELL_S = 3.0


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


@contextlib.contextmanager
def join_ranks(device: torch.device, timeout_s: float) -> Iterator[RankInfo]:
    """Join the process group that the environment names; one process joins nothing.

    After an error the group is not destroyed: that would wait for ranks that are gone.

    Parameters
    ----------
    device : torch.device
        ``cuda`` uses NCCL for its tensors, and gloo for those on the CPU.
    timeout_s : float
        Maximum wait for the other ranks in any exchange, seconds.

    Raises
    ------
    RankLost
        If an exchange failed because a rank is gone: names it.
    RankStopped
        If another rank reports the error: a lost rank, or an error common to several ranks.
    """
    info = RankInfo.of_environment()
    if info.world_size == 1:
        yield info
        return
    heartbeat = _join(info, device, timeout_s)
    try:
        yield info
    except UsageError as error:
        _ignore_signals()
        if is_reported_by_another_rank(error, info.rank, info.world_size):
            raise RankStopped(error.exit_code) from error
        raise
    except RankStopped as error:
        if error.exit_code == UsageError.exit_code:
            _ignore_signals()
            announce_end()
        raise
    except RuntimeError as error:
        _ignore_signals()
        lost = heartbeat.lost()
        if not lost:
            raise
        if info.rank == 0:  # it holds the store, from which the others learn
            time.sleep(_FAREWELL_S)
        if info.rank != min(set(range(info.world_size)) - set(lost)):
            raise RankStopped(RankLost.exit_code) from error
        names = " and ".join(f"rank {number}" for number in lost)
        raise RankLost(f"{names} of {info.world_size} was lost") from error
    heartbeat.stop()
    dist.destroy_process_group()


def _ignore_signals() -> None:
    """Keep a launcher that ends all ranks from interrupting the report of the error."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _join(info: RankInfo, device: torch.device, timeout_s: float) -> Heartbeat:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = datetime.timedelta(seconds=timeout_s)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
    is_master = info.rank == 0 and not agent
    try:
        store = dist.TCPStore(host, port, info.world_size, is_master=is_master, timeout=timeout)
    except (dist.DistError, RuntimeError) as error:
        raise DinoforgeError(
            f"rank {info.rank} of {info.world_size} cannot reach the others at "
            f"{host}:{port} within {timeout_s:.0f} s - look at the log of rank 0"
        ) from error
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=info.rank,
        world_size=info.world_size,
        timeout=timeout,
    )
    return Heartbeat(info.rank, info.world_size)


def world_size() -> int:
    """Return the number of ranks; 1 outside a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return the number of this process; 0 outside a process group."""
    return dist.get_rank() if _is_distributed() else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks (every rank must call it); returns a new tensor."""
    if not _is_distributed():
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that may be sharded, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def highest_over_ranks(value: int) -> int:
    """Return the largest of the ranks' values; every rank must call it."""
    if not _is_distributed():
        return value
    box = torch.tensor([value])  # on the CPU: no wait for a GPU's queue
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box.item())


def from_rank_0(value: T) -> T:
    """Return the value that rank 0 passed; every rank must call it."""
    if not _is_distributed():
        return value
    box: list[Any] = [value if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def all_gather_objects(value: T, group: Any = None) -> list[T]:
    """Return the values of all ranks, in their order; every rank must call it."""
    if not _is_distributed():
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


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
