"""The order of the images: which one is at a position of a step, in closed form.

Every step is a batch of one homogeneous part, or a batch of all heterogeneous parts. The share of
a part is kept at every step, not only on average, and nothing is drawn that depends on the steps
before: any rank finds the image of any position from the step and the seed alone.

Not for reading images; see `dataset`.
"""

import functools
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dinoforge.randomness import KeyedPermutation, uniforms
from dinoforge.training.data.parts import PartConfig

__all__ = ["ImageOrder", "Interleaving", "PartUse", "Place", "Places", "StepOrder"]

Rows = npt.NDArray[np.int64]
Number = TypeVar("Number", int, npt.NDArray[np.uint64])

_BITS = 32  # shares of positions are multiples of 2**-32
_LOW = (1 << _BITS) - 1
_HALF = 1 << (_BITS - 1)


class _Node(NamedTuple):
    share: int  # of its positions that go left, in units of 2**-32
    left: "_Node | int"
    right: "_Node | int"


class Interleaving:
    """An endless sequence of items in which every prefix has each in proportion to its weight.

    A Huffman tree of the weights splits the positions: of the first m positions of a node,
    ``floor(m share + 1/2)`` go left. Counts of two items thus differ from their shares by at most
    1/2; of up to eight, tests see less than 1.5.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        nodes: list[tuple[Fraction, int, _Node | int]]
        nodes = [(weight, item, item) for item, weight in enumerate(weights)]
        heapq.heapify(nodes)
        while len(nodes) > 1:
            light, heavy = heapq.heappop(nodes), heapq.heappop(nodes)
            weight = light[0] + heavy[0]
            node = _Node(round(light[0] / weight * (1 << _BITS)), light[2], heavy[2])
            heapq.heappush(nodes, (weight, light[1], node))
        self._root = nodes[0][2]
        self._num_items = len(weights)

    def locate(self, positions: Rows) -> tuple[Rows, Rows]:
        """Return, ``[n]`` each, the item at a position and how often it occurs before."""
        items, earlier = np.empty_like(positions), np.empty_like(positions)

        def descend(node: _Node | int, rows: Rows, inside: npt.NDArray[np.uint64]) -> None:
            if isinstance(node, int):
                items[rows], earlier[rows] = node, inside
                return
            left = _rounded_share(inside, node.share)
            is_left = _rounded_share(inside + np.uint64(1), node.share) > left
            descend(node.left, rows[is_left], left[is_left])
            descend(node.right, rows[~is_left], (inside - left)[~is_left])

        descend(self._root, np.arange(len(positions)), positions.astype(np.uint64))
        return items, earlier

    def counts(self, length: int) -> list[int]:
        """Count the items among the first ``length`` positions."""
        counts = [0] * self._num_items

        def descend(node: _Node | int, length: int) -> None:
            if isinstance(node, int):
                counts[node] = length
                return
            left = _rounded_share(length, node.share)
            descend(node.left, left)
            descend(node.right, length - left)

        descend(self._root, length)
        return counts


def _rounded_share(number: Number, share: int) -> Number:
    """Return ``floor(number share / 2**32 + 1/2)`` without overflow."""
    return (number >> _BITS) * share + (((number & _LOW) * share + _HALF) >> _BITS)


class StepOrder:
    """Which of several streams has a step.

    Steps of all streams but the heaviest are rare. The steps are cut into cells with one rare step
    each, at a place drawn from the seed, so that metrics of every tenth step do not always show the
    same stream. The place is also in the window in which its stream is less than one step ahead or
    behind. So up to three streams have their shares to less than one step after any number of
    steps; more than three may miss the window (tests see less than 1.5).
    """

    def __init__(self, weights: Sequence[Fraction], seed: int) -> None:
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._heaviest = max(range(len(weights)), key=weights.__getitem__)
        self._rare = [n for n in range(len(weights)) if n != self._heaviest]
        rare = [self._shares[n] for n in self._rare]
        self._cells = sum(rare, Fraction())  # per step
        self._streams = Interleaving(rare) if rare else None
        self._seed = seed

    def locate(self, step: int) -> tuple[int, int]:
        """Return the stream that has a step, and how many steps it had before."""
        if self._streams is None:
            return self._heaviest, step
        cell = math.floor(step * self._cells)
        stream, earlier, place = self._rare_step(cell)
        if place == step:
            return stream, earlier
        return self._heaviest, step - cell - (place < step)

    def counts(self, steps: int) -> list[int]:
        """Count the steps of each stream among the first ``steps``."""
        counts = [0] * len(self._shares)
        if self._streams is not None:
            cell = math.floor(steps * self._cells)
            for stream, count in zip(self._rare, self._streams.counts(cell), strict=True):
                counts[stream] = count
            stream, _, place = self._rare_step(cell)
            counts[stream] += place < steps
        counts[self._heaviest] = steps - sum(counts)
        return counts

    def _rare_step(self, cell: int) -> tuple[int, int, int]:
        """Return the stream of a cell's rare step, how many it had before, and which step it is."""
        assert self._streams is not None
        items, nth = self._streams.locate(np.array([cell]))
        stream, earlier = self._rare[items[0]], int(nth[0])
        share = self._shares[stream]
        first, end = math.ceil(cell / self._cells), math.ceil((cell + 1) / self._cells)
        lo = min(max(first, math.floor(earlier / share)), end - 1)
        hi = max(min(end, math.ceil((earlier + 1) / share)), lo + 1)
        number = uniforms(self._seed, "mixture/steps", [cell])[0, 0]
        return stream, earlier, lo + int(number * (hi - lo))


@dataclass(frozen=True)
class Place:
    """An image in the order of its part."""

    image: int  # row of the table of all parts
    part: int
    epoch: int  # pass over the part
    position: int  # in this pass


@dataclass(frozen=True)
class Places:
    """What is at B positions of a step; the fields of `Place`, ``[B]`` each."""

    images: Rows
    parts: Rows
    epochs: Rows
    positions: Rows

    def rows(self) -> Iterator[Place]:
        """Yield them one by one."""
        columns = (self.images, self.parts, self.epochs, self.positions)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            yield Place(*row)


@dataclass(frozen=True)
class PartUse:
    """How much of a part a training has shown."""

    name: str
    images: int  # in the part
    seen: int  # images shown, replaced ones included

    @property
    def passes(self) -> float:
        """Passes over the part."""
        return self.seen / self.images


class ImageOrder:
    """The endless order of the images of all parts, cut into steps.

    What a part gives is numbered through: number p of a part of n images is the image
    ``permutation(part, epoch)[p mod n]`` with epoch ``p // n``, so that every pass shows each of
    its images once. The positions of a heterogeneous batch are shuffled.

    Parameters
    ----------
    parts : sequence of PartConfig
    sizes : sequence of int
        Images of each part; a part begins where the one before it ends.
    batch_size : int
        Images per step, over all ranks.
    seed : int
    """

    def __init__(
        self, parts: Sequence[PartConfig], sizes: Sequence[int], *, batch_size: int, seed: int
    ) -> None:
        self.sizes, self.batch_size, self.seed = list(sizes), batch_size, seed
        self._names = [part.name for part in parts]
        # By its decimal digits: 0.1 is a tenth.
        weights = [Fraction(str(part.weight)) for part in parts]
        used = [n for n, weight in enumerate(weights) if weight]
        mixed = [n for n in used if parts[n].batches == "heterogeneous"]
        streams = [[n] for n in used if parts[n].batches == "homogeneous"]
        self._streams = [*streams, mixed] if mixed else streams
        by_stream = [[weights[n] for n in stream] for stream in self._streams]
        self._steps = StepOrder([sum(some, Fraction()) for some in by_stream], seed)
        self._interleavings = [Interleaving(some) for some in by_stream]

    def locate(self, step: int, within: range) -> Places:
        """Find what is at some positions of a step."""
        stream, earlier = self._steps.locate(step)
        members = np.array(self._streams[stream])
        inside = np.arange(within.start, within.stop)
        if len(members) > 1:
            # Else the same positions, and so groups of KoLeo, would have the same parts each time.
            shuffled = KeyedPermutation(self.batch_size, self.seed, "mixture/batch", epoch=step)
            inside = shuffled[inside]
        items, numbers = self._interleavings[stream].locate(earlier * self.batch_size + inside)
        parts = members[items]
        epochs, positions = np.divmod(numbers, np.array(self.sizes)[parts])
        images = np.empty_like(positions)
        for part, epoch in set(zip(parts.tolist(), epochs.tolist(), strict=True)):
            now = (parts == part) & (epochs == epoch)
            images[now] = self._first_image(part) + self._order(part, epoch)[positions[now]]
        return Places(images, parts, epochs, positions)

    def after(self, place: Place) -> Place:
        """Find the next image of the same part and pass, after the last one the first."""
        position = (place.position + 1) % self.sizes[place.part]
        image = self._first_image(place.part) + self._order(place.part, place.epoch)[position]
        return Place(image, place.part, place.epoch, position)

    def uses(self, steps: int) -> list[PartUse]:
        """Count what the first ``steps`` show of each part."""
        seen = [0] * len(self.sizes)
        for stream, count in enumerate(self._steps.counts(steps)):
            counts = self._interleavings[stream].counts(count * self.batch_size)
            for part, number in zip(self._streams[stream], counts, strict=True):
                seen[part] = number
        return [PartUse(*row) for row in zip(self._names, self.sizes, seen, strict=True)]

    def per_step(self) -> list[int]:
        """Count the images of each part in a step that shows it, up to rounding."""
        counts = [0] * len(self.sizes)
        for members, interleaving in zip(self._streams, self._interleavings, strict=True):
            for part, count in zip(members, interleaving.counts(self.batch_size), strict=True):
                counts[part] = count
        return counts

    def _first_image(self, part: int) -> int:
        return sum(self.sizes[:part])

    def _order(self, part: int, epoch: int) -> KeyedPermutation:
        return _permutation(self.sizes[part], self.seed, self._names[part], epoch)


@functools.lru_cache(maxsize=64)
def _permutation(num_images: int, seed: int, name: str, epoch: int) -> KeyedPermutation:
    return KeyedPermutation(num_images, seed, f"order/{name}" if name else "order", epoch)
