"""Worker processes that end when the process that started them is gone, however it went."""

import contextlib
import ctypes
import os
import signal
import threading
import time

__all__ = ["end_with_parent"]

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
