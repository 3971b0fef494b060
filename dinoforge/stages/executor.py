"""Run partitions in this process or in N local ones. Jobs of a cluster come from `slurm`."""

import concurrent.futures
import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from dinoforge.errors import DinoforgeError, UsageError
from dinoforge.processes import end_with_parent, share_cores
from dinoforge.stages.task import Marker, Task, run_task

__all__ = ["Executor", "InProcess", "LocalProcesses", "make_executor"]

_log = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs tasks in any order and reports each marker as it is written."""

    def run(self, tasks: Sequence[Task], done: Callable[[Marker], None]) -> None:
        """Run every task; raise the first error after the running ones have ended."""

    def close(self) -> None:
        """End what the executor started."""


class InProcess:
    """Run one partition after the other in this process."""

    def run(self, tasks: Sequence[Task], done: Callable[[Marker], None]) -> None:
        """Run the tasks in order."""
        for task in tasks:
            done(run_task(task))

    def close(self) -> None:
        """Nothing to end."""


class LocalProcesses:
    """Run partitions in ``num`` processes that live as long as the pipeline.

    If a worker dies (out of memory, ``kill -9``), its partition is retried in a new pool; two
    deaths in a row without progress are an error that names stage and partitions.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def run(self, tasks: Sequence[Task], done: Callable[[Marker], None]) -> None:
        """Run the tasks on the pool."""
        left = {task.index: task for task in tasks}

        def finished(marker: Marker) -> None:
            left.pop(marker.partition)
            done(marker)

        deaths = 0  # since the last progress
        while left:
            before = len(left)
            try:
                self._run_on_pool(list(left.values()), finished)
            except BrokenProcessPool as error:
                self._close(wait=False)
                deaths = deaths + 1 if len(left) == before else 0
                if deaths == 2:
                    some = ", ".join(str(index) for index in sorted(left)[:5])
                    raise DinoforgeError(
                        f"worker processes died twice in stage {tasks[0].stage.name}, "
                        f"partitions {some}: killed, or out of memory"
                    ) from error
                _log.warning("a worker process died; rerunning %d partitions", len(left))

    def _run_on_pool(self, tasks: Sequence[Task], done: Callable[[Marker], None]) -> None:
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.num,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(), self.num),
            )
        futures = [self._pool.submit(run_task, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                done(future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            # The caller releases the run: nobody may write to it any more.
            concurrent.futures.wait(futures)
            raise

    def close(self) -> None:
        """End the workers."""
        self._close(wait=True)

    def _close(self, *, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)
            self._pool = None


def make_executor(on: str) -> Executor:
    """Make the executor that ``--on`` names: ``in-process`` or ``local:N``.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if on == "in-process":
        return InProcess()
    if place := re.fullmatch(r"local:([1-9]\d{0,3})", on, re.ASCII):
        return LocalProcesses(int(place[1]))
    raise UsageError(
        what=f"unknown place to run `{on}`",
        where="--on",
        do="write in-process or local:N with 1 to 9999 processes, or slurm:PROFILE",
    )


def _start_worker(parent: int, num_workers: int) -> None:
    """Leave signals to the driver and end when it has ended, for whatever reason."""
    share_cores(num_workers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    end_with_parent(parent)
