"""Keep the log and the warnings of Pillow from users: `Undecodable` reports what is wrong."""

import logging
import threading
import warnings
from typing import Any

__all__ = ["quiet_pillow"]

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
