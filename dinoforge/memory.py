"""The C allocator keeps what it got: large arrays come and go every step."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

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
