"""Which listed images each source gives: key patterns, limits, and one owner per image.

An image is a file (without links) and its place in it. Only files that are listed more than once,
by several sources or as the same compressed tar, can have images with several owners: just these
are numbered. Of all other images a byte each is in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.config import SourceConfig
from dinoforge.randomness import KeyedPermutation

__all__ = ["RepeatedFiles", "Selection", "find_repeated_files", "select_images"]

_ROWS = 1 << 20  # that are looked at together
_REFERENCE, _OTHER = 1, 2  # owners


@dataclass(frozen=True)
class RepeatedFiles:
    """Files that are listed more than once, by source: ranges of rows, ascending.

    Each of their images has a number, the same wherever its file is listed.
    """

    starts: Sequence[NDArray[np.int64]]  # row of the first image of a file
    stops: Sequence[NDArray[np.int64]]
    first_numbers: Sequence[NDArray[np.int64]]  # number of the first image of a file
    num_images: int

    def images(
        self, source: int, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those rows in ``[start, stop)`` of a source, and the numbers of their images."""
        starts, stops = self.starts[source], self.stops[source]
        files = slice(
            int(np.searchsorted(stops, start, "right")), int(np.searchsorted(starts, stop))
        )
        begin, end = np.maximum(starts[files], start), np.minimum(stops[files], stop)
        counts = end - begin
        before = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(begin - before, counts)
        return rows, rows + np.repeat(self.first_numbers[source][files] - starts[files], counts)

    def iter_images(self, source: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield all rows of a source and their numbers, some at a time."""
        for start in range(0, int(self.stops[source].max(initial=0)), _ROWS):
            rows, numbers = self.images(source, start, start + _ROWS)
            if len(rows):
                yield rows, numbers


def find_repeated_files(
    places: Sequence[NDArray[Any]], counts: Sequence[NDArray[np.int64]]
) -> RepeatedFiles:
    """Find the files that occur more than once.

    ``places`` identifies the files of every source, in order, ``counts`` is how many images each
    has.
    """
    every, num = np.concatenate(places), np.concatenate(counts)
    _, place, times = np.unique(every, return_inverse=True, return_counts=True)
    is_repeated = (times[place] > 1) & (num > 0)
    _, file = np.unique(place[is_repeated], return_inverse=True)
    most = np.zeros(int(file.max(initial=-1)) + 1, np.int64)
    np.maximum.at(most, file, num[is_repeated])
    first = np.zeros(len(every), np.int64)
    first[is_repeated] = (np.cumsum(most) - most)[file]
    starts, stops, firsts = [], [], []
    at = 0
    for of_source in counts:
        here, stop = slice(at, at + len(of_source)), np.cumsum(of_source)
        chosen = is_repeated[here]
        starts.append((stop - of_source)[chosen])
        stops.append(stop[chosen])
        firsts.append(first[here][chosen])
        at += len(of_source)
    return RepeatedFiles(starts, stops, firsts, int(most.sum()))


@dataclass(frozen=True)
class Selection:
    """The images of every source, each image once."""

    chosen: Sequence[NDArray[np.bool_]]  # by source: of every row
    # By source: rows that match its pattern, but are left out because a reference has the image,
    # and the numbers of these images (`RepeatedFiles`).
    also_in_references: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    not_selected: int  # images that no source selects

    @property
    def num_shared(self) -> int:
        """Count the images that a reference has and another source would select."""
        return len(np.unique(np.concatenate([n for _, n in self.also_in_references])))


def select_images(
    sources: Sequence[SourceConfig],
    matches: Callable[[int], NDArray[np.bool_]],
    repeated: RepeatedFiles,
    seed: int,
) -> Selection:
    """Select the images of every source.

    References choose first: what must not leak is no pool image because another source is listed
    before. ``matches(at)`` returns which rows of a source its key pattern matches.
    """
    owner = np.zeros(repeated.num_images, np.int8)
    nothing = np.zeros(0, np.int64)
    chosen = [np.zeros(0, np.bool_)] * len(sources)
    also = [(nothing, nothing)] * len(sources)
    not_selected = 0
    for at in sorted(range(len(sources)), key=lambda at: sources[at].role != "reference"):
        is_reference = sources[at].role == "reference"
        mask = matches(at)
        parts = [(nothing, nothing)]
        for rows, numbers in repeated.iter_images(at):
            in_reference = mask[rows] & (owner[numbers] == _REFERENCE)
            if not is_reference:
                parts.append((rows[in_reference], numbers[in_reference]))
            mask[rows[owner[numbers] != 0]] = False
        rows, numbers = map(np.concatenate, zip(*parts, strict=True))
        also[at] = rows, numbers
        _limit(mask, sources[at], seed)
        not_selected += int(np.count_nonzero(~mask))
        for rows, numbers in repeated.iter_images(at):
            owner[numbers[mask[rows]]] = _REFERENCE if is_reference else _OTHER
            not_selected -= int(np.count_nonzero(~mask[rows]))  # counted by number, below
        chosen[at] = mask
    return Selection(chosen, also, not_selected + int(np.count_nonzero(owner == 0)))


def _limit(mask: NDArray[np.bool_], source: SourceConfig, seed: int) -> None:
    """Leave at most the limit of a source."""
    num = int(np.count_nonzero(mask))
    if not source.limit or source.limit >= num:
        return
    stays = np.zeros(num, np.bool_)
    if source.pick == "first":
        stays[: source.limit] = True
    else:
        order = KeyedPermutation(num, seed, f"limit {source.role} {source.name}")
        for start in range(0, source.limit, _ROWS):
            stays[order[np.arange(start, min(start + _ROWS, source.limit))]] = True
    mask[mask] = stays
