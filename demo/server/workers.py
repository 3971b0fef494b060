"""A thread with a short queue: work beyond it is refused, work that nobody waits for is dropped."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from dinoforge.demo.server.problems import busy

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs one job after the other; at most ``limit`` wait."""

    def __init__(self, name: str, *, limit: int = 8) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)
        self._name, self._limit, self._pending = name, limit, 0

    @property
    def num_pending(self) -> int:
        """Jobs that run or wait."""
        return self._pending

    async def run(self, job: Callable[[], T]) -> T:
        """Return the result of a job; if the caller is cancelled before it starts, it never does.

        Raises
        ------
        Problem
            429, if the queue is full.
        """
        if self._pending > self._limit:
            raise busy(f"{self._limit} requests wait already ({self._name})", wait_s=2)
        self._pending += 1
        future = self._threads.submit(job)
        # Called when the job has run, or was cancelled while it waited; not before.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        return await asyncio.wrap_future(future)

    def _finished(self) -> None:
        self._pending -= 1

    def close(self) -> None:
        """Drop what waits; a running job ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
