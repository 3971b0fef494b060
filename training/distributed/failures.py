"""What ranks learn about failures of each other, through the store of their process group."""

import datetime
import os
import threading
import time

import torch.distributed as dist

from dinoforge.errors import UsageError
from dinoforge.files import hash_json

__all__ = ["Heartbeat", "announce_end", "is_reported_by_another_rank"]

_BEAT_S = 1.0
_SILENT_S = 4.0  # a rank without a beat for this long is lost, or stopped
_PATIENCE_S = 10.0  # for a common error: rank 0 may be slower to hit it
_POLL_S = 0.05
_ENDED = "ended"


def _connect(prefix: str, timeout_s: float = 300.0) -> dist.Store:
    # A connection of its own: that of the process group may be blocked in a wait.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = datetime.timedelta(seconds=timeout_s)
    return dist.PrefixStore(prefix, dist.TCPStore(host, port, is_master=False, timeout=timeout))


class Heartbeat:
    """Report to the store, once a second, that this rank is alive; until `stop` or the exit."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank = rank
        self._world_size = world_size
        self._store = _connect("alive")
        self._lock = threading.Lock()
        self._store.set(str(rank), "0")
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
        return [n for n in range(self._world_size) if before[n] == after[n] and n != self._rank]

    def _counts(self) -> list[bytes]:
        with self._lock:
            return [self._store.get(str(number)) for number in range(self._world_size)]

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(_BEAT_S):
            count += 1
            try:
                with self._lock:
                    self._store.set(str(self._rank), str(count))
            except dist.DistError:
                return


def is_reported_by_another_rank(error: UsageError, rank: int, world_size: int) -> bool:
    """Decide which of the ranks that hit the same error reports it: rank 0 if it is among them.

    Every rank that hits it calls this; nothing is expected of the others.

    Returns
    -------
    bool
        False on exactly one of these ranks, and wherever the ranks lost each other: an error
        reported twice is better than one never reported.
    """
    name = hash_json(str(error))
    try:
        store = _connect("errors", _PATIENCE_S)
        if rank == 0:
            store.set(f"rank 0 {name}", "reports")
            # Rank 0 holds the store: it ends last.
            deadline = time.monotonic() + _PATIENCE_S
            while store.add(_ENDED, 0) < world_size - 1 and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            return False
        try:
            store.wait([f"rank 0 {name}"])
            is_reported = True
        except dist.DistStoreError:
            is_reported = store.add(name, 1) > 1
    except dist.DistError:
        return False
    announce_end()
    return is_reported


def announce_end() -> None:
    """Let rank 0, which holds the store, end without waiting for this rank."""
    try:
        _connect("errors", _PATIENCE_S).add(_ENDED, 1)
    except dist.DistError:
        return
