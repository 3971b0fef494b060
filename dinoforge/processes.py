"""Processes: whether one is alive, ending with a parent, cores, freed memory, peaks of memory."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

__all__ = [
    "end_with_parent",
    "forget_peak_memory",
    "is_alive",
    "keep_freed_memory",
    "peak_memory",
    "share_cores",
    "usable_cores",
]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_num_sharing = 1  # processes that share the cores of this one, itself included; see `share_cores`


def end_with_parent(parent: int) -> None:
    """End this process when ``parent`` ends: immediately on Linux, elsewhere within a second.

    Otherwise the same command, started again, would find the run in use.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def share_cores(num_processes: int) -> None:
    """Note that so many processes as this one share its cores."""
    global _num_sharing  # noqa: PLW0603 - of the process, as its cores are
    _num_sharing = num_processes


def usable_cores() -> int:
    """Return the cores for this process, 1 at least: its share of those that it may run on.

    On a cluster at most those of its task, which not every cluster enforces.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if of_task.isdecimal():
        cores = min(cores or 1, int(of_task))
    return max(1, (cores or 1) // _num_sharing)


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs, whoever owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is alive, of another user
    return True


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(75)


def keep_freed_memory() -> bool:
    """Let glibc reuse freed memory instead of returning it to the system.

    Otherwise arrays above 32 MiB are mapped anew each time, and every page of them faults: on a
    virtual machine that took 10 % of a training step and 33 % of the color changes
    (`benchmarks/LOG.md`). The peak memory is unchanged. Returns False, and changes nothing, if the
    C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def forget_peak_memory() -> None:
    """Let `peak_memory` start anew from what this process holds now, where Linux allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes; see `forget_peak_memory`."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except (OSError, IndexError):  # another system
        # Not forgotten, and at least what the process that started this one had.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
