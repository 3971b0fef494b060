"""Blocks of work that any number of processes share through the files of one folder.

A process goes through all blocks of a step, computes those that nobody has computed or is at, and
waits for the rest. So one process alone does everything, more of them help at any time, and none is
needed: a killed one loses its block, which another computes again. That is harmless even where
locks do not work across machines, because a block is a function of its inputs.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinoforge.files import write_atomic

__all__ = ["Arrays", "OwnWork", "SharedWork", "Work"]

Arrays = dict[str, NDArray[Any]]
Compute = Callable[[int], Arrays]
Merge = Callable[[slice, Iterator[Arrays]], Arrays]

_LONGEST_WAIT = 2.0  # seconds between two looks at what others have finished


class Work(Protocol):
    """Does the steps of a computation that all its processes go through in the same order."""

    def gather(self, step: str, num_blocks: int, compute: Compute) -> Iterator[Arrays]:
        """Compute every block of a step; yield them in order."""

    def reduce(
        self, step: str, num_blocks: int, compute: Compute, merge: Merge, ranges: Sequence[slice]
    ) -> Iterator[Arrays]:
        """Compute every block of a step, then merge them range by range; yield the merged ranges.

        All arrays of a block have as many rows; ``ranges`` divide them. ``merge`` gets a range and
        the rows in it of every block, in the order of the blocks.
        """


class OwnWork:
    """All work in this process, in memory, one block at a time."""

    def gather(self, step: str, num_blocks: int, compute: Compute) -> Iterator[Arrays]:  # noqa: ARG002 - names files elsewhere
        """Compute one block after the other."""
        return map(compute, range(num_blocks))

    def reduce(
        self,
        step: str,  # noqa: ARG002
        num_blocks: int,
        compute: Compute,
        merge: Merge,
        ranges: Sequence[slice],
    ) -> Iterator[Arrays]:
        """Merge all ranges as one while computing one block after the other."""
        return iter([merge(slice(0, ranges[-1].stop), map(compute, range(num_blocks)))])


class SharedWork:
    """Work shared with every process that uses the same folder; continues where they stopped.

    ``place`` of ``places`` (this process among those planned) is where it starts to look, so that
    processes that start together are at different blocks.
    """

    def __init__(self, folder: Path, place: int = 0, places: int = 1) -> None:
        self._folder, self._place, self._places = folder, place, places
        folder.mkdir(parents=True, exist_ok=True)

    def gather(self, step: str, num_blocks: int, compute: Compute) -> Iterator[Arrays]:
        """Compute blocks that are left, and wait for those of others."""
        blocks = self._files(step, "block", num_blocks)
        self._finish(blocks, compute)
        return map(_load, blocks)

    def reduce(
        self, step: str, num_blocks: int, compute: Compute, merge: Merge, ranges: Sequence[slice]
    ) -> Iterator[Arrays]:
        """Compute and merge what is left; the merged ranges stay, the blocks are removed."""
        if num_blocks == len(ranges) == 1:  # nothing to share: half the files
            return self.gather(step, 1, lambda _: merge(ranges[0], iter([compute(0)])))
        merged = self._files(step, "range", len(ranges))
        blocks = self._files(step, "block", num_blocks)

        def compute_ranges(index: int) -> Arrays:
            arrays = compute(index).items()
            return {f"{at}/{n}": a[rows] for at, rows in enumerate(ranges) for n, a in arrays}

        def merge_range(index: int) -> Arrays:
            return merge(ranges[index], (_load(path, f"{index}/") for path in blocks))

        self._finish(blocks, compute_ranges, merged)
        self._finish(merged, merge_range)
        # By every process: the one that merged last may have been killed before it did this. With
        # what killed ones were writing.
        for pattern in (f"{step}.block-*", f".{step}.block-*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)
        return map(_load, merged)

    def _files(self, step: str, kind: str, num: int) -> list[Path]:
        return [self._folder / f"{step}.{kind}-{index:05d}.npz" for index in range(num)]

    def _finish(self, files: list[Path], compute: Compute, later: Sequence[Path] = ()) -> None:
        """Return when all files exist, or all later ones, which are made of them."""
        first = self._place * len(files) // self._places
        wait = 0.01
        while not _exist(files):
            did_some = False
            for index in [*range(first, len(files)), *range(first)]:
                if later and _exist(later):
                    return
                # Where locks do not work, another process may merge blocks and remove them.
                with contextlib.suppress(FileNotFoundError):
                    did_some |= self._once(files[index], partial(compute, index))
            if not did_some and not _exist(files):
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)

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


def _exist(files: Sequence[Path]) -> bool:
    return all(map(Path.exists, files))


def _load(path: Path, prefix: str = "") -> Arrays:
    """Read the arrays of a file, or those whose names begin with a prefix, without it."""
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in file.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): file[name] for name in names}
