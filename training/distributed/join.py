"""Joining the ranks of a run, and what they do when one of them fails or is lost.

Whoever is left learns through the store of the process group which rank is gone, and which of
several ranks reports an error common to them.
"""

import contextlib
import datetime
import os
import signal
import threading
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from dinoforge.errors import DinoforgeError, RankLost, RankStopped, UsageError
from dinoforge.files import hash_json
from dinoforge.training.distributed.local_ranks import has_launcher
from dinoforge.training.distributed.ranks import RankInfo

__all__ = ["join_ranks"]

_BEAT_S = 1.0
_SILENT_S = 4.0  # a rank without a beat for this long is lost, or stopped
_FAREWELL_S = 3.0
_PATIENCE_S = 10.0  # for a common error: rank 0 may be slower to hit it
_POLL_S = 0.05
_ENDED = "ended"


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
        If another rank, or the launcher, reports the error: a lost rank, or an error common to
        several ranks.
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
        if _is_reported_by_another_rank(error, info):
            raise RankStopped(error.exit_code) from error
        raise
    except RankStopped as error:
        if error.exit_code == UsageError.exit_code:
            _ignore_signals()
            _announce_end()
        raise
    except RuntimeError as error:
        _ignore_signals()
        lost = heartbeat.lost()
        if not lost:
            raise
        if info.rank == 0:  # it holds the store, from which the others learn
            time.sleep(_FAREWELL_S)
        if has_launcher() or info.rank != min(set(range(info.world_size)) - set(lost)):
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


def _join(info: RankInfo, device: torch.device, timeout_s: float) -> "_Heartbeat":
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
    try:
        store = _connect(timeout_s, is_master=info.rank == 0 and not agent, ranks=info.world_size)
    except (dist.DistError, RuntimeError) as error:
        host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        raise DinoforgeError(
            f"rank {info.rank} of {info.world_size} cannot reach the others at "
            f"{host}:{port} within {timeout_s:.0f} s - look at the log of rank 0"
        ) from error
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=info.rank,
        world_size=info.world_size,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    return _Heartbeat(info)


def _connect(
    timeout_s: float, *, is_master: bool = False, ranks: int | None = None
) -> dist.TCPStore:
    """Connect to the store; every use has a connection, as another may be blocked in a wait."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = datetime.timedelta(seconds=timeout_s)
    return dist.TCPStore(host, port, ranks, is_master=is_master, timeout=timeout)


class _Heartbeat:
    """Report to the store, once a second, that this rank is alive; until `stop` or the exit."""

    def __init__(self, info: RankInfo) -> None:
        self._info = info
        self._store = dist.PrefixStore("alive", _connect(300.0))
        self._lock = threading.Lock()
        self._store.set(str(info.rank), "0")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop: an interpreter that exits while a thread uses the store is aborted."""
        self._stopped.set()
        self._thread.join(_SILENT_S)

    def lost(self) -> list[int]:
        """Find the ranks whose heartbeat stopped; takes some seconds."""
        try:
            before = self._counts()
            time.sleep(_SILENT_S)
            after = self._counts()
        except dist.DistError:
            return [0]  # which holds the store
        others = set(range(self._info.world_size)) - {self._info.rank}
        return [number for number in sorted(others) if before[number] == after[number]]

    def _counts(self) -> list[bytes]:
        with self._lock:
            return [self._store.get(str(number)) for number in range(self._info.world_size)]

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(_BEAT_S):
            count += 1
            try:
                with self._lock:
                    self._store.set(str(self._info.rank), str(count))
            except dist.DistError:
                return


def _is_reported_by_another_rank(error: UsageError, info: RankInfo) -> bool:
    """Decide which of the ranks that hit the same error reports it: rank 0 if it is among them.

    Every rank that hits it calls this; nothing is expected of the others. False on exactly one of
    these ranks, and wherever the ranks lost each other: an error reported twice is better than one
    never reported.
    """
    name = hash_json(str(error))
    try:
        store = dist.PrefixStore("errors", _connect(_PATIENCE_S))
        if info.rank == 0:
            store.set(f"rank 0 {name}", "reports")
            # Rank 0 holds the store: it ends last.
            deadline = time.monotonic() + _PATIENCE_S
            while store.add(_ENDED, 0) < info.world_size - 1 and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            return False
        try:
            store.wait([f"rank 0 {name}"])
            is_reported = True
        except dist.DistStoreError:
            is_reported = store.add(name, 1) > 1
    except dist.DistError:
        return False
    _announce_end()
    return is_reported


def _announce_end() -> None:
    """Let rank 0, which holds the store, end without waiting for this rank."""
    with contextlib.suppress(dist.DistError):
        dist.PrefixStore("errors", _connect(_PATIENCE_S)).add(_ENDED, 1)
