"""Keep the log and the warnings of Pillow from users: `Undecodable` reports what is wrong."""

import ctypes
import logging
import re
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["quiet_pillow", "silence_libtiff"]

logging.getLogger("PIL").setLevel(logging.CRITICAL)


class _Quiet:
    """Ignore warnings raised inside Pillow while any thread is inside.

    ``warnings.catch_warnings`` alone restores the wrong filters when threads overlap: here the
    first to enter saves them and the last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *raised: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(*raised)


quiet_pillow = _Quiet()


def silence_libtiff() -> None:
    """Stop libtiff from printing errors, without the name of the file, to stderr.

    Pillow offers no way; the library that it has loaded does. Nothing happens where that library
    is not found (no Linux, or linked into Pillow).
    """
    with suppress(OSError, AttributeError):
        for library in _loaded_libtiff():
            library.TIFFSetErrorHandler(None)


@cache  # what raises is not kept
def _loaded_libtiff() -> list[ctypes.CDLL]:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    paths = set(re.findall(r" (/.*/libtiff[^/\n]*\.so[^/\n]*)$", maps, re.MULTILINE))
    return [ctypes.CDLL(path) for path in sorted(paths)]
