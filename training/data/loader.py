"""Processes that prepare the batches of coming steps; any number of them gives the same batches.

Workers are forked from a server process that has torch loaded and nothing else running, never from
the training process with its threads and its GPU. They leave signals to the training process,
which decides when to stop, and end when it is gone.
"""

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from dinoforge.errors import DinoforgeError

__all__ = ["prepare_steps", "usable_workers", "worker_context"]

T = TypeVar("T")

_PREFETCHED = 2  # batches that each worker prepares ahead
# What a scheduler or a keyboard sends to the whole process group; the training process reacts.
_LEFT_TO_TRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def usable_workers(num_workers: int) -> int:
    """Limit the workers to the cores that this process may use."""
    return min(num_workers, len(os.sched_getaffinity(0)))


def worker_context() -> multiprocessing.context.BaseContext:
    """Start the server that workers are forked from, once; return its context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dinoforge.training.data.dataset"])
    # Blocked signals are inherited: neither server nor workers can be ended by them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_TRAINING)
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
    """Yield ``prepare(step)`` for each step in order, computed ahead in worker processes.

    Parameters
    ----------
    prepare : callable
        A function of the step alone; must pickle.
    steps : range
    num_workers : int
        At least 1.
    context : multiprocessing context
        From `worker_context`.
    pinned : bool
        Hand results over in page-locked memory, from which a GPU copies without waiting.
    """
    loader: DataLoader[T | DinoforgeError] = DataLoader(
        _Steps(prepare),
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals,
        multiprocessing_context=context,
        prefetch_factor=_PREFETCHED,
        pin_memory=pinned,
        # Without one of its own, the loader would take a number from torch's global generator.
        generator=torch.Generator(),
    )
    for result in loader:
        if isinstance(result, DinoforgeError):
            raise result
        yield result


class _Steps(Dataset[T | DinoforgeError], Generic[T]):
    def __init__(self, prepare: Callable[[int], T]) -> None:
        self._prepare = prepare

    def __getitem__(self, step: int) -> T | DinoforgeError:
        try:
            return self._prepare(step)
        except DinoforgeError as error:
            return error  # raised, torch would make another kind of error of it


def _as_it_is(result: T) -> T:
    return result


def _leave_signals(_worker: int) -> None:
    for number in _LEFT_TO_TRAINING:
        signal.signal(number, signal.SIG_IGN)
