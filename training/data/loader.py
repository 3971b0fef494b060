"""Processes that prepare the batches of coming steps; their number does not change a batch.

Workers are forked from a server process that only has torch loaded, never from the training
process with its threads and its GPU. They ignore signals: the training process decides when to
stop; they end with it.
"""

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from dinoforge.errors import DinoforgeError
from dinoforge.training.distributed.local_ranks import STOP_SIGNALS

__all__ = ["prepare_steps", "usable_workers", "worker_context"]

T = TypeVar("T")


def usable_workers(num_workers: int) -> int:
    """Limit the number of workers to the cores that this process may use."""
    return min(num_workers, len(os.sched_getaffinity(0)))


def worker_context() -> multiprocessing.context.BaseContext:
    """Start the server that workers are forked from, unless it runs; return its context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dinoforge.training.data.dataset"])
    # Blocked signals are inherited: they can end neither server nor workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def prepare_steps(
    prepare: Callable[[int], T],
    steps: range,
    *,
    num_workers: int,
    context: multiprocessing.context.BaseContext,
    pinned: bool,
) -> Iterator[T]:
    """Yield ``prepare(step)`` for each step in order, computed in advance by worker processes.

    `prepare` is pickled; there is at least 1 worker, of `worker_context`. `pinned` results are in
    page-locked memory, from which a GPU copies asynchronously.
    """
    loader: DataLoader[T | DinoforgeError] = DataLoader(
        _Steps(prepare),
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals,
        multiprocessing_context=context,
        prefetch_factor=2,  # batches per worker
        pin_memory=pinned,
        # Without its own, the loader would draw from torch's global generator.
        generator=torch.Generator(),
    )
    for result in loader:
        if isinstance(result, DinoforgeError):
            raise result
        yield result


@dataclass(frozen=True)
class _Steps(Dataset[T | DinoforgeError], Generic[T]):
    prepare: Callable[[int], T]

    def __getitem__(self, step: int) -> T | DinoforgeError:
        try:
            return self.prepare(step)
        except DinoforgeError as error:
            return error  # if raised, torch would change its type


def _as_it_is(result: T) -> T:
    return result


def _leave_signals(_worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
