"""Encode many images: decoded ahead by threads, encoded in batches of one size, in order.

On a CPU every thread decodes a batch and runs the network on it, with one numerical thread, so all
cores work and none waits. A GPU, or a function that only one thread may call, gets batches that
the threads decode while it works. Decoders release the interpreter's lock (`benchmarks/LOG.md`):
threads suffice, share weights and open files, and end with their process.

Memory: per thread one decoded image and one group of images as the network reads them. Ahead of a
GPU two groups, and 4 images per thread.
"""

import contextlib
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits

from dinoforge.encoders.encoder import Encoder, Images, Vectors
from dinoforge.processes import usable_cores

__all__ = [
    "ENCODED_AT_ONCE",
    "Encoded",
    "Rate",
    "Work",
    "add_rates",
    "describe_rates",
    "encode_images",
    "map_ahead",
    "num_workers",
]

A = TypeVar("A")
T = TypeVar("T")

# Images of a batch: a multiple of the usual batches of networks.
ENCODED_AT_ONCE = 64

# Images that a thread decodes for a GPU at a time: less to hand over than one by one.
_DECODED_AT_ONCE = 4


@dataclass
class Rate:
    """Images per second, and how long what encodes them had nothing to do but wait for decoding."""

    images: int = 0
    started: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds, of all threads that encode
    worked: float = 0.0  # of the same threads: waiting and encoding

    def as_json(self) -> dict[str, Any]:
        """Return the figures of a marker: ``images``, ``images_per_s``, ``decode_wait`` (share)."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        return {
            "images": self.images,
            "images_per_s": round(self.images / seconds, 1),
            "decode_wait": round(self.waited / self.worked, 3) if self.worked else 0.0,
        }


def add_rates(measured: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return images per second and the share of waiting of several `Rate.as_json`; None of none.

    They ran one after the other, or each with cores of its own.
    """
    rates = [one for one in measured if one.get("images_per_s")]
    if not rates:
        return None
    seconds = [one["images"] / one["images_per_s"] for one in rates]
    waited = sum(s * one["decode_wait"] for s, one in zip(seconds, rates, strict=True))
    total = sum(seconds)
    return sum(one["images"] for one in rates) / total, waited / total


def describe_rates(measured: Sequence[Mapping[str, Any]]) -> str:
    """Describe the speed of some partitions for the log; "" if none encoded anything."""
    rates = add_rates(measured)
    return "" if rates is None else f"{rates[0]:,.0f} images/s, decode wait {rates[1]:.0%}"


def num_workers(setting: str) -> int | None:
    """Return the number of a recipe's ``workers``, as `encode_images` takes it: auto is None."""
    return None if setting == "auto" else int(setting)


@dataclass(frozen=True)
class Encoded(Generic[T]):
    """The next ``count`` images: which of them decode, and what the encoder gives for those."""

    decoded: list[int]  # places within these images
    count: int
    vectors: T  # rows: all views of the first decoded image, then of the next


@dataclass(frozen=True)
class Work(Generic[T]):
    """How images are encoded.

    ``encode_each`` turns groups of images, as ``fit`` returns them, into one result per group;
    ``on_threads``: threads may call it at the same time.
    """

    fit: Callable[[Any], Any]
    encode_each: Callable[[Iterable[Images]], Iterator[T]]
    on_threads: bool

    @staticmethod
    def of(encoder: Encoder) -> "Work[Vectors]":
        """Return how an encoder works."""
        return Work(encoder.fit, encoder.encode_each, encoder.on_threads)


def encode_images(
    work: Work[T],
    items: Iterable[A],
    load: Callable[[A], Images],
    *,
    workers: int | None = None,
    at_once: int = ENCODED_AT_ONCE,
    rate: Rate | None = None,
) -> Iterator[Encoded[T]]:
    """Yield the vectors of images in order, in groups of ``at_once``.

    ``load`` decodes one of ``items`` to its views, always as many, or to none if it does not
    decode; any thread calls it. ``workers`` is the number of threads, 0 for none, None for the
    cores of this process; results do not depend on it. What ``load`` and the encoder raise, is
    raised for the first image concerned.
    """
    rate = rate or Rate()
    if workers is None:
        workers = usable_cores() if usable_cores() > 1 or not work.on_threads else 0
    groups = _encode_on_threads if work.on_threads else _encode_alone
    for encoded in groups(work, iter(items), load, workers, at_once, rate):
        rate.images += len(encoded.decoded)
        yield encoded


def map_ahead(
    function: Callable[[A], T], items: Iterable[A], *, workers: int, ahead: int
) -> Iterator[T]:
    """Yield ``function(item)`` in order, computed by threads, at most ``ahead`` items in advance.

    Without workers it is computed when it is asked for. If this is closed, or an error is raised,
    nothing new is started and the running ones are waited for.
    """
    if not workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode", initializer=_one_thread)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    """Give the numerical libraries one thread here: OpenMP counts for every thread anew."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


class _Stopped(Exception):  # noqa: N818 - no error: nobody waits for the result
    """The caller has ended."""


def _encode_on_threads(
    work: Work[T],
    items: Iterator[A],
    load: Callable[[A], Images],
    workers: int,
    at_once: int,
    rate: Rate,
) -> Iterator[Encoded[T]]:
    stopping = threading.Event()

    def encode(group: Sequence[A]) -> tuple[Encoded[T], float, float]:
        started = time.monotonic()
        decoded, squares = [], []
        for place, item in enumerate(group):
            if stopping.is_set():
                raise _Stopped
            if views := load(item):
                decoded.append(place)
                squares += [work.fit(view) for view in views]
        ready = time.monotonic()
        (vectors,) = work.encode_each([_Stoppable(squares, stopping)])
        return Encoded(decoded, len(group), vectors), ready - started, time.monotonic() - started

    with _restored_threads():
        parts = map_ahead(encode, _grouped(items, at_once), workers=workers, ahead=2 * workers)
        try:
            for encoded, waited, worked in parts:
                rate.waited += waited
                rate.worked += worked
                yield encoded
        finally:
            stopping.set()
            parts.close()  # type: ignore[attr-defined] # a generator


class _Stoppable(list[Any]):
    """Images of which no more are given once nobody waits: a signal ends the command at once."""

    def __init__(self, images: Images, stopping: threading.Event) -> None:
        super().__init__(images)
        self._stopping = stopping

    def __getitem__(self, place: Any) -> Any:
        if self._stopping.is_set():
            raise _Stopped
        return super().__getitem__(place)


@contextlib.contextmanager
def _restored_threads() -> Iterator[None]:
    """Compute with one numerical thread; afterwards with as many as before."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(limits=1):
        if torch and before != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch and before != 1:
                torch.set_num_threads(before)


def _encode_alone(
    work: Work[T],
    items: Iterator[A],
    load: Callable[[A], Images],
    workers: int,
    at_once: int,
    rate: Rate,
) -> Iterator[Encoded[T]]:
    def decode(some: Sequence[A]) -> list[list[Any]]:
        return [[work.fit(view) for view in load(item)] for item in some]

    groups: deque[tuple[list[int], int]] = deque()

    def batches() -> Iterator[Images]:
        ahead = workers + at_once // _DECODED_AT_ONCE
        parts = map_ahead(decode, _grouped(items, _DECODED_AT_ONCE), workers=workers, ahead=ahead)
        images = itertools.chain.from_iterable(parts)
        while True:
            started = time.monotonic()
            group = list(itertools.islice(images, at_once))
            rate.waited += time.monotonic() - started
            if not group:
                return
            groups.append(([place for place, views in enumerate(group) if views], len(group)))
            yield [view for views in group for view in views]

    started = time.monotonic()
    for vectors in work.encode_each(batches()):
        rate.worked += time.monotonic() - started
        yield Encoded(*groups.popleft(), vectors)
        started = time.monotonic()


def _grouped(items: Iterator[A], size: int) -> Iterator[list[A]]:
    while group := list(itertools.islice(items, size)):
        yield group
