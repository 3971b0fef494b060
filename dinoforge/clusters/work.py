"""Blocks of work that any number of processes share through the files of one folder.

A process goes through all blocks of a step, computes those that nobody has computed or is at, and
waits for the rest; then one of them merges. So one process alone does everything, more of them help
at any time, and none is needed: a killed one loses its block, which another computes again. That is
harmless even where locks do not work across machines, because a block is a function of its inputs.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinoforge.files import write_atomic

__all__ = ["Arrays", "OwnWork", "SharedWork", "Work"]

Arrays = dict[str, NDArray[Any]]

_LONGEST_WAIT = 2.0  # seconds between two looks at what others have finished


class Work(Protocol):
    """Does the steps of a computation that all its processes go through in the same order."""

    def gather(
        self,
        step: str,
        num_blocks: int,
        compute: Callable[[int], Arrays],
        merge: Callable[[Iterator[Arrays]], Arrays],
    ) -> Arrays:
        """Compute every block of a step, then merge them in the order of the blocks."""


class OwnWork:
    """All work in this process, in memory."""

    def gather(
        self,
        step: str,  # noqa: ARG002 - names files elsewhere
        num_blocks: int,
        compute: Callable[[int], Arrays],
        merge: Callable[[Iterator[Arrays]], Arrays],
    ) -> Arrays:
        """Compute one block after the other while merging."""
        return merge(map(compute, range(num_blocks)))


class SharedWork:
    """Work shared with every process that uses the same folder; continues where they stopped.

    ``place`` of ``places`` (this process among those planned) is where it starts to look, so that
    processes that start together are at different blocks.
    """

    def __init__(self, folder: Path, place: int = 0, places: int = 1) -> None:
        self._folder, self._place, self._places = folder, place, places
        folder.mkdir(parents=True, exist_ok=True)

    def gather(
        self,
        step: str,
        num_blocks: int,
        compute: Callable[[int], Arrays],
        merge: Callable[[Iterator[Arrays]], Arrays],
    ) -> Arrays:
        """Compute blocks that are left, wait for those of others; one process merges."""
        result = self._folder / f"{step}.npz"
        blocks = [self._folder / f"{step}.{index:05d}.npz" for index in range(num_blocks)]
        first = self._place * num_blocks // self._places
        order = [*range(first, num_blocks), *range(first)]
        wait = 0.01
        while not result.exists():
            did_some = False
            for index in order:
                if result.exists():
                    break
                did_some |= self._once(blocks[index], partial(compute, index))
            if not did_some and all(map(Path.exists, blocks)):
                # Another process may have merged and removed them where locks do not work.
                with contextlib.suppress(FileNotFoundError):
                    did_some = self._once(result, lambda: merge(map(_load, blocks)))
            if not did_some and not result.exists():
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        # By every process: the one that merged may have been killed before it removed them all.
        for path in self._folder.glob(f"{step}.?????.npz*"):
            path.unlink(missing_ok=True)
        return _load(result)

    def _once(self, path: Path, compute: Callable[[], Arrays]) -> bool:
        """Compute a file unless it exists or another process is at it; return whether it did."""
        if path.exists():
            return False
        lock_file = path.with_name(f"{path.name}.lock")
        with contextlib.suppress(BlockingIOError), lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():
                arrays = compute()
                write_atomic(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
                return True
        return False


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
