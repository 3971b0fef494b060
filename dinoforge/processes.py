"""Worker processes that end when the process that started them is gone, however it went."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["end_with_parent", "keep_freed_memory"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """End this process when `parent` ends: at once where the system can, else within a second.

    At once, because the same command may be started again at once, and would find the run in use.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(75)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Let glibc reuse freed memory instead of giving it back to the system after each use.

    Arrays above 32 MiB are otherwise mapped anew each time, and every page of them faults: on a
    virtual machine that took a tenth of a training step and a third of the color changes
    (`benchmarks/LOG.md`). The peak stays, what is free in between is kept.

    Returns
    -------
    bool
        False where the C library is not glibc; then nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
