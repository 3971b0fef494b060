"""One driver at a time, on a shared folder, whoever gets killed.

``flock`` over network file systems is not to be trusted. Here each turn is a folder with the next
number: ``mkdir`` is atomic, so exactly one process gets a number. A turn ends with a file
``released``, with the death of its process on this machine, or when its heartbeat has been silent
for `EXPIRES_S`. A holder that was taken for dead finds a higher number than its own and stops
before it does anything more (`Lease.check`).
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

__all__ = ["Lease", "LeaseBusyError", "hold_lease"]

EXPIRES_S = 90.0
_HEARTBEAT_S = 5.0


class LeaseBusyError(DinoforgeError):
    """Another driver is at work on this run, and stayed so for as long as we waited."""


class Lease:
    """A turn that this process holds; made by `hold_lease`."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self._end = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True)

    @property
    def turn(self) -> Path:
        """Folder of this turn."""
        return self.folder / f"{self.number:05d}"

    def check(self) -> None:
        """Raise when somebody took over: call before every act that must not happen twice."""
        if max(_numbers(self.folder), default=0) != self.number:
            raise LeaseBusyError("this driver was taken for dead and another one went on")

    def _keep_alive(self) -> None:
        while not self._end.wait(_HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.turn / "holder.json")

    def start(self) -> None:
        """Write who holds the turn and begin the heartbeat."""
        holder = {
            "host": platform.node(),
            "boot": _boot_id(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
        }
        (self.turn / "holder.json").write_text(json.dumps(holder), encoding="utf-8")
        self._beat.start()

    def release(self) -> None:
        """End the turn."""
        self._end.set()
        self._beat.join()
        with contextlib.suppress(OSError):
            (self.turn / "released").touch()


@contextlib.contextmanager
def hold_lease(
    folder: Path, *, wait_s: float = 600.0, jobs_are_gone: bool = False
) -> Iterator[Lease]:
    """Hold the lease of a run for a ``with`` block.

    Parameters
    ----------
    folder : Path
        On the file system that all drivers see.
    wait_s : float
        How long to wait for another driver.
    jobs_are_gone : bool
        The caller knows that no job of the run is left: a holder inside one is dead.

    Raises
    ------
    LeaseBusyError
        If another driver holds it all that time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, pause = time.monotonic() + wait_s, 0.1
    while (lease := _try(folder, jobs_are_gone)) is None:
        if time.monotonic() > deadline:
            raise LeaseBusyError(f"another driver holds {folder}: {_holder(folder)}")
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.01)))
        pause = min(1.5 * pause, 2.0)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


def _try(folder: Path, jobs_are_gone: bool) -> Lease | None:
    numbers = _numbers(folder)
    last = max(numbers, default=0)
    if last and not _is_over(folder, folder / f"{last:05d}", jobs_are_gone):
        return None
    lease = Lease(folder, last + 1)
    try:
        lease.turn.mkdir()
    except FileExistsError:
        return None
    for number in numbers:
        if number < last:
            shutil.rmtree(folder / f"{number:05d}", ignore_errors=True)
    return lease


def _is_over(folder: Path, turn: Path, jobs_are_gone: bool) -> bool:
    if (turn / "released").exists():
        return True
    holder = _read_holder(turn)
    if jobs_are_gone and holder.get("job"):
        return True
    same_machine = (holder.get("host"), holder.get("boot")) == (platform.node(), _boot_id())
    if same_machine and not _is_alive(int(holder.get("pid", 0))):
        return True
    try:
        heard = (turn / "holder.json").stat().st_mtime
    except OSError:
        try:
            heard = turn.stat().st_mtime  # killed between mkdir and its first word
        except OSError:
            return False
    return _time_there(folder) - heard > EXPIRES_S


def _time_there(folder: Path) -> float:
    """Time of the file server: clocks of machines differ."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.tmp-") as probe:
        os.utime(probe.name)
        return Path(probe.name).stat().st_mtime


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    """Tell machines of one host name apart (containers, reboots); process ids are theirs alone."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _read_holder(turn: Path) -> dict[str, Any]:
    try:
        holder = json.loads((turn / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _holder(folder: Path) -> str:
    holder = _read_holder(folder / f"{max(_numbers(folder), default=0):05d}")
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job}"


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(entry.name) for entry in os.scandir(folder) if entry.name.isdigit()]
    except FileNotFoundError:
        return []
