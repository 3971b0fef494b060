"""The ranks of a run: processes that train one network together, started by whatever launcher.

A launcher (``--on local:N``, a cluster's job, torchrun) sets RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them there is one rank and nothing is joined.
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
from dinoforge.training.distributed.common_errors import is_told_by_another_rank, say_that_we_end
from dinoforge.training.distributed.heartbeat import Heartbeat

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


@dataclass(frozen=True)
class RankInfo:
    """What the launcher told this process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine: which GPU
    local_world_size: int = 1

    @classmethod
    def of_environment(cls) -> "RankInfo":
        """Read the launcher's variables.

        Raises
        ------
        UsageError
            If some are set and others are missing or no numbers.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        try:
            size = int(os.environ["WORLD_SIZE"])
            number = int(os.environ["RANK"])
            local = int(os.environ.get("LOCAL_RANK", number))
            return cls(number, size, local, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
        except (KeyError, ValueError) as error:
            raise UsageError(
                what=f"incomplete rank environment: {error}",
                where="RANK, WORLD_SIZE, LOCAL_RANK",
                do="let a launcher set them all, or unset WORLD_SIZE for one process",
            ) from error


@contextlib.contextmanager
def join_ranks(device: torch.device, timeout_s: float) -> Iterator[RankInfo]:
    """Join the process group that the environment names; nothing to join for one process.

    After an error the group is left as it is: taking it down would wait for ranks that are gone.
    A mistake that all ranks meet is told by rank 0 alone.

    Parameters
    ----------
    device : torch.device
        ``cuda`` uses NCCL for tensors there, and gloo for those on the CPU.
    timeout_s : float
        Longest wait for the other ranks in any exchange, seconds.

    Raises
    ------
    RankLost
        If an exchange failed because a rank is gone: names it.
    RankStopped
        In place of a `UsageError` that another rank tells.
    """
    rank_info = RankInfo.of_environment()
    if rank_info.world_size == 1:
        yield rank_info
        return
    heart = _join(rank_info, device, timeout_s)
    try:
        yield rank_info
    except UsageError as error:
        _ignore_signals()
        if is_told_by_another_rank(error, rank_info.rank, rank_info.world_size):
            raise RankStopped(error.exit_code) from error
        raise
    except RankStopped as error:
        if error.exit_code == UsageError.exit_code:
            _ignore_signals()
            say_that_we_end()
        raise
    except RuntimeError as error:
        _ignore_signals()
        lost = heart.lost()
        if not lost:
            raise
        if rank_info.rank == 0:  # it holds the store, by which the others find out
            time.sleep(_FAREWELL_S)
        if rank_info.rank != min(set(range(rank_info.world_size)) - set(lost)):
            raise RankStopped(RankLost.exit_code) from error
        named = " and ".join(f"rank {number}" for number in lost)
        raise RankLost(f"{named} of {rank_info.world_size} was lost") from error
    heart.stop()
    dist.destroy_process_group()


_FAREWELL_S = 3.0


def _ignore_signals() -> None:
    """Let no launcher that ends the rest keep us from saying why: we are about to end anyway."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _join(rank_info: RankInfo, device: torch.device, timeout_s: float) -> Heartbeat:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = datetime.timedelta(seconds=timeout_s)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
    holds = rank_info.rank == 0 and not agent
    try:
        store = dist.TCPStore(host, port, rank_info.world_size, is_master=holds, timeout=timeout)
    except (dist.DistError, RuntimeError) as error:
        raise DinoforgeError(
            f"rank {rank_info.rank} of {rank_info.world_size} cannot reach the others at "
            f"{host}:{port} within {timeout_s:.0f} s - look at the log of rank 0"
        ) from error
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        timeout=timeout,
    )
    return Heartbeat(host, port, rank_info.rank, rank_info.world_size)


def world_size() -> int:
    """Count the ranks; 1 outside a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Tell the number of this process; 0 outside a process group."""
    return dist.get_rank() if _is_distributed() else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks (every rank must call it); returns a new tensor."""
    if not _is_distributed():
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def local_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor that may be sharded, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def highest_over_ranks(value: int) -> int:
    """Return the largest of the ranks' values; every rank must call it."""
    if not _is_distributed():
        return value
    box = torch.tensor([value])  # on the CPU: no wait for a GPU's queue
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box.item())


def from_rank_0(value: T) -> T:
    """Return the value that rank 0 gave; every rank must call it."""
    if not _is_distributed():
        return value
    box: list[Any] = [value if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def all_gather_objects(value: T, group: Any = None) -> list[T]:
    """Return the values of all ranks, in their order; every rank must call it."""
    if not _is_distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=group)
    return found


def on_rank_0(action: Callable[[], T]) -> T | None:
    """Run an action on rank 0 while the others wait; they get None.

    Raises
    ------
    RankStopped
        On the other ranks, if it fails on rank 0, where its own error is raised.
    """
    result: T | None = None
    failure: BaseException | None = None
    if rank() == 0:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001 - raised again below, after the others know
            failure = error
    code = from_rank_0(getattr(failure, "exit_code", 1) if failure is not None else 0)
    if failure is not None:
        raise failure
    if code:
        raise RankStopped(code)
    return result


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
