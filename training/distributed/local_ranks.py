"""Ranks on this machine: the same command started N times, which end together. Needs no torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from dinoforge.errors import RankLost
from dinoforge.processes import end_with_parent

__all__ = ["STOP_SIGNALS", "end_with_launcher", "has_launcher", "run_local_ranks"]

# Sent by a scheduler, often to the whole process group, or by the keyboard.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_PARENT = "DINOFORGE_PARENT"  # a rank ends when this process is gone
_GRACE_S = 20.0  # for the remaining ranks to find out that one was lost, or to report an error


def run_local_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m dinoforge ARGUMENTS`` on `count` ranks until all have ended.

    Rank 0 prints results; the others print warnings and errors only. Signals are forwarded to all
    of them; they agree on what to do. Returns 0, or the exit code of the first rank that failed.

    Raises
    ------
    RankLost
        If a rank was killed, or hangs: names it; the others have been ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        _PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "dinoforge", *arguments]
    ranks: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        for number in range(count):
            ranks.append(  # noqa: PERF401 - the signal handler sees those already started
                subprocess.Popen(
                    command,
                    env=shared | {"RANK": str(number), "LOCAL_RANK": str(number)},
                    stdout=None if number == 0 else subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches them once, through this process
                )
            )
        return _wait(ranks)
    finally:
        for process in ranks:
            process.kill()
        for process in ranks:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def has_launcher() -> bool:
    """Return whether `run_local_ranks` started this process, and so reports a lost rank."""
    return _PARENT in os.environ


def end_with_launcher() -> None:
    """End this process with the one that started it as a rank; others are not affected."""
    if has_launcher():
        end_with_parent(int(os.environ[_PARENT]))


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    first: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
        if first is None:
            first = next((n for n, process in enumerate(ranks) if process.poll()), None)
            deadline = float("inf") if first is None else time.monotonic() + _GRACE_S
    codes = [process.poll() for process in ranks]
    for number, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise RankLost(f"rank {number} was lost: {name} (often: out of memory)")
    code = (codes[first] if first is not None else next(filter(None, codes), 0)) or 0
    if code == RankLost.exit_code:  # found out by the other ranks, which leave the report to us
        hanging = [f"rank {number}" for number, ended in enumerate(codes) if ended is None]
        raise RankLost(f"{' and '.join(hanging) or 'a rank'} of {len(ranks)} was lost")
    return code
