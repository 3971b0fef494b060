"""Queues: what is beyond them, and what nobody waits for any more."""

import asyncio
import threading

import pytest

from dinoforge.demo.server.problems import Problem
from dinoforge.demo.server.workers import Worker


def test_work_beyond_the_queue_is_refused_and_abandoned_work_is_dropped():
    done, gate = [], threading.Event()
    worker = Worker("test", limit=3)

    async def main():
        first = asyncio.create_task(worker.run(lambda: gate.wait(60)))
        waiting = [asyncio.create_task(worker.run(lambda n=n: done.append(n))) for n in range(3)]
        await asyncio.sleep(0)  # each task runs to its place in the queue
        assert worker.num_pending == 4
        with pytest.raises(Problem, match="3 requests wait") as error:
            await worker.run(lambda: done.append("refused"))
        assert error.value.status == 429
        waiting[1].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *waiting, return_exceptions=True)
        while worker.num_pending:  # the thread reports the last job a moment after its result
            await asyncio.sleep(0.01)
        await worker.run(lambda: done.append("last"))

    asyncio.run(main())
    assert done == [0, 2, "last"]
    worker.close()


def test_errors_of_a_job_reach_the_caller():
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.run(lambda: 1 / 0))
    worker.close()
