"""Images sorted by cell, as `assign` writes them, and how stages read them; random samples.

An image has an entry in each of its nearest cells.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.stored.generations import earlier_generations
from dinoforge.curation.tables import CurationInputs
from dinoforge.neighbors.cell_join import Members
from dinoforge.randomness import KeyedPermutation

__all__ = [
    "Entries",
    "choose_sample",
    "read_entries",
    "read_nearest",
    "read_sizes",
    "runs_in_cells",
]


def choose_sample(num: int, most: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Choose ``most`` of ``num`` positions at random, all if there are fewer; ascending."""
    if most >= num:
        return np.arange(num)
    return np.sort(KeyedPermutation(num, seed, purpose)[np.arange(most)])


class Entries(NamedTuple):
    """Entries of a range of cells, by cell and id."""

    cell: NDArray[np.int64]
    ids: NDArray[np.int64]
    members: Members

    def of_each_cell(self) -> Iterator[tuple[int, NDArray[np.int64], Members]]:
        """Yield every cell that has entries, their ids and members."""
        bounds = np.flatnonzero(np.r_[True, self.cell[1:] != self.cell[:-1], True])
        for low, high in itertools.pairwise(bounds.tolist()):
            if low < high:
                part = Members(self.members.rows[low:high], self.members.nearest[low:high])
                yield int(self.cell[low]), self.ids[low:high], part


def runs_in_cells(inputs: CurationInputs) -> list[CurationInputs]:
    """Return the earlier generations whose images are in cells: all have the same centroids."""
    return [of_run for _, of_run in earlier_generations(inputs) if of_run.facts("cells")]


def read_sizes(inputs: CurationInputs) -> NDArray[np.int64]:
    """Count the entries of every cell."""
    sizes = np.zeros(0, np.int64)
    for path in inputs.files("assign", "starts.npy"):
        counts = np.diff(np.load(path))
        sizes = sizes + counts if len(sizes) else counts
    return sizes


def read_entries(
    inputs: CurationInputs, first: int, stop: int, low: int = 0, high: int | None = None
) -> Entries:
    """Read the entries of cells ``[first, stop)``; of these those from ``low`` to ``high``.

    These count through the partitions, so they cut a single cell, whose ids ascend, into blocks.
    """
    names = ("ids", "cells", "rows")
    parts: list[list[NDArray[Any]]] = []
    at = 0
    for index, path in enumerate(inputs.files("assign", "starts.npy")):
        starts = np.load(path, mmap_mode="r")[first : stop + 1].astype(np.int64)
        here, there = starts[0] + np.clip(
            [low - at, starts[-1] if high is None else high - at], 0, starts[-1] - starts[0]
        )
        at += int(starts[-1] - starts[0])
        if here == there and parts:  # thousands of partitions, of which few have entries
            continue
        files = (inputs.file("assign", f"{name}.npy", index) for name in names)
        columns = [np.load(file, mmap_mode="r")[here:there] for file in files]
        cell = first - 1 + np.searchsorted(starts, np.arange(here, there), side="right")
        parts.append([cell, *columns])
    cell, ids, cells, stored = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Partitions hold ascending ids.
    order = np.argsort(cell, kind="stable")
    rows = tables.unit_rows(stored[order])
    return Entries(cell[order], ids[order], Members(rows, cells[order]))


def read_nearest(inputs: CurationInputs, positions: NDArray[np.int64]) -> NDArray[np.int32]:
    """Read the nearest cells, int32 ``[n, r]``, of joined images by ascending position."""
    parts = []
    at = 0
    for path in inputs.files("assign", "nearest.npy"):
        file = np.load(path, mmap_mode="r")
        low, high = np.searchsorted(positions, [at, at + len(file)])
        parts.append(file[positions[low:high] - at])
        at += len(file)
    return np.concatenate(parts)
