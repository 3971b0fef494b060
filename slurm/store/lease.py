"""A lease: one driver of a run at a time, through files that all nodes see.

``flock`` is unreliable on network file systems. Each turn is a folder with the next number:
``mkdir`` is atomic, so exactly one process gets a number. A turn ends with a file ``released``,
with the death of its process on this machine, or when its heartbeat is older than `EXPIRES_S`.
A holder whose heartbeat expired although it was alive sees a higher number than its own and stops
(`Lease.check`).
"""

import contextlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinoforge.errors import DinoforgeError
from dinoforge.processes import is_alive

__all__ = ["Lease", "LeaseBusyError", "hold_lease"]

EXPIRES_S = 90.0
_HEARTBEAT_S = 5.0


class LeaseBusyError(DinoforgeError):
    """Another driver held the lease of this run all the time."""


class Lease:
    """A turn of a driver; `hold_lease` returns that of this process."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.turn = folder / f"{number:05d}"
        self.holder_file = self.turn / "holder.json"  # its time is the heartbeat

    def check(self) -> None:
        """Raise if another driver took over; call before anything that must not happen twice."""
        if max(_numbers(self.folder), default=0) != self.number:
            raise LeaseBusyError("the heartbeat of this driver expired; another driver took over")

    def holder(self) -> dict[str, Any]:
        """Host, boot, process id and job of the holder; empty if it was killed before it wrote."""
        try:
            holder: dict[str, Any] = json.loads(self.holder_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return holder


@contextlib.contextmanager
def hold_lease(
    folder: Path, *, wait_s: float = 600.0, jobs_are_gone: bool = False
) -> Iterator[Lease]:
    """Hold the lease of a run for a ``with`` block; waits ``wait_s`` for another driver.

    The file system of ``folder`` is shared by all drivers. ``jobs_are_gone``: no job of the run is
    left, so a holder that is a job is dead. Raises `LeaseBusyError` after ``wait_s``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, pause = time.monotonic() + wait_s, 0.1
    while (lease := _try(folder, jobs_are_gone)) is None:
        if time.monotonic() > deadline:
            holder = Lease(folder, max(_numbers(folder), default=0)).holder()
            job = f", job {holder['job']}" if holder.get("job") else ""
            process = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job}"
            raise LeaseBusyError(f"another driver holds {folder}: {process}")
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.01)))
        pause = min(1.5 * pause, 2.0)
    facts = {"host": platform.node(), "boot": _boot_id(), "pid": os.getpid()}
    lease.holder_file.write_text(json.dumps(facts | {"job": os.environ.get("SLURM_JOB_ID", "")}))
    end = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(lease.holder_file, end), daemon=True)
    heartbeat.start()
    try:
        yield lease
    finally:
        end.set()
        heartbeat.join()
        with contextlib.suppress(OSError):
            (lease.turn / "released").touch()


def _beat(path: Path, end: threading.Event) -> None:
    while not end.wait(_HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _try(folder: Path, jobs_are_gone: bool) -> Lease | None:
    numbers = _numbers(folder)
    last = max(numbers, default=0)
    if last and not _is_over(Lease(folder, last), jobs_are_gone):
        return None
    lease = Lease(folder, last + 1)
    try:
        lease.turn.mkdir()
    except FileExistsError:
        return None
    for number in numbers:
        if number < last:
            shutil.rmtree(Lease(folder, number).turn, ignore_errors=True)
    return lease


def _is_over(lease: Lease, jobs_are_gone: bool) -> bool:
    holder = lease.holder()
    if (lease.turn / "released").exists() or (jobs_are_gone and holder.get("job")):
        return True
    is_here = (holder.get("host"), holder.get("boot")) == (platform.node(), _boot_id())
    if is_here and not is_alive(int(holder.get("pid", 0))):
        return True
    try:
        heartbeat = (lease.holder_file if holder else lease.turn).stat().st_mtime
    except OSError:
        return False
    # The time of the file server: clocks of machines differ.
    with tempfile.NamedTemporaryFile(dir=lease.folder, prefix=".clock.tmp-") as clock:
        os.utime(clock.name)
        return Path(clock.name).stat().st_mtime - heartbeat > EXPIRES_S


def _boot_id() -> str:
    """Identify the set of process ids: containers and reboots share a host name."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("[0-9]*")]
