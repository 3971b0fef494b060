"""A mistake that several ranks meet is told by one of them, rank 0 if it is among them."""

import datetime
import os
import time

import torch.distributed as dist

from dinoforge.errors import UsageError
from dinoforge.files import hash_json

__all__ = ["is_told_by_another_rank", "say_that_we_end"]

_PATIENCE_S = 10.0  # for rank 0, which may be slower to find out, and for those that ask it
_LOOKS_EVERY_S = 0.05


def is_told_by_another_rank(error: UsageError, rank: int, world_size: int) -> bool:
    """Find out whether another rank tells this mistake; every rank that meets it asks.

    Exchanges nothing that a rank without the mistake would have to answer.

    Parameters
    ----------
    error : UsageError
    rank, world_size : int
        Of this process.

    Returns
    -------
    bool
        False for exactly one of the ranks that meet it, and where the ranks lost each other: better
        told twice than never.
    """
    name = hash_json(str(error))
    try:
        store = _connect()
        if rank == 0:
            store.set(f"rank 0 {name}", "tells")
            _wait_for_the_others(store, world_size)
            return False
        is_told = _hear_rank_0(store, name) or store.add(name, 1) > 1
    except dist.DistError:
        return False
    say_that_we_end()  # only now: rank 0 takes the store along when all have ended
    return is_told


def _hear_rank_0(store: dist.Store, name: str) -> bool:
    try:
        store.wait([f"rank 0 {name}"], datetime.timedelta(seconds=_PATIENCE_S))
    except dist.DistStoreError:
        return False
    return True


def say_that_we_end() -> None:
    """Let rank 0, which holds the store, end without waiting for this rank."""
    try:
        _connect().add(_ENDED, 1)
    except dist.DistError:
        return


_ENDED = "ended"


def _connect() -> dist.Store:
    # A connection of its own: the one of the process group may be busy waiting.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = datetime.timedelta(seconds=_PATIENCE_S)
    return dist.PrefixStore("mistakes", dist.TCPStore(host, port, is_master=False, timeout=timeout))


def _wait_for_the_others(store: dist.Store, world_size: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while store.add(_ENDED, 0) < world_size - 1 and time.monotonic() < deadline:
        time.sleep(_LOOKS_EVERY_S)
