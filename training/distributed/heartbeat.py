"""Which rank was lost: every rank tells the store once a second that it is alive."""

import threading
import time

import torch.distributed as dist

__all__ = ["Heartbeat"]

_EVERY_S = 1.0
_SILENT_S = 4.0  # a rank that says nothing for so long is gone, or stopped


class Heartbeat:
    """Beats in the background until it is stopped, or to the end of the process.

    Parameters
    ----------
    host, port
        Of the store of the process group.
    rank, world_size : int
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int) -> None:
        self._rank = rank
        self._world_size = world_size
        # A connection of its own: the one of the process group may be busy waiting.
        self._store = dist.PrefixStore("alive", dist.TCPStore(host, port, is_master=False))
        self._lock = threading.Lock()
        self._store.set(str(rank), "0")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it: an interpreter that ends while a thread talks to the store is aborted."""
        self._stopped.set()
        self._thread.join(_SILENT_S)

    def lost(self) -> list[int]:
        """Find the ranks that do not beat any more; takes some seconds."""
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
        while not self._stopped.wait(_EVERY_S):
            count += 1
            try:
                with self._lock:
                    self._store.set(str(self._rank), str(count))
            except dist.DistError:
                return
