"""Random numbers and orders as functions of (seed, purpose, position, epoch), without state.

So neither the number of workers nor a resume changes a crop, a mask or an order, and two purposes
never share numbers. Philox4x32-10, the counter-based generator of Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3": the key is a hash of seed and purpose; the counter has
position, epoch and the number of the block in the stream.

Not for cryptography, and slow for millions of numbers of one stream.
"""

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import overload

import numpy as np
import numpy.typing as npt

__all__ = ["Draws", "KeyedPermutation", "philox4x32", "uniforms"]

Words = npt.NDArray[np.uint64]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)  # golden ratio, sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
_BLOCKS_AT_ONCE = 1 << 14  # about 1 MiB of temporaries: stays in the L2 cache


def philox4x32(counters: Words, key: tuple[int, int]) -> Words:
    """Encrypt counters, uint64 ``[4, n]``, with Philox4x32-10; the result equals Random123's.

    All words, those of the key and of the result included, are below 2**32.
    """
    even, odd = counters[0::2], counters[1::2]
    round_key = np.array(key, np.uint64)[:, None]
    for _ in range(_ROUNDS):
        product = (even * _MULTIPLIERS)[::-1]
        even = product >> _HALF
        even ^= odd
        even ^= round_key
        odd = product & _LOW
        round_key = (round_key + _KEY_STEPS) & _LOW
    return np.stack((even, odd), axis=1).reshape(4, -1)


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    # A hash, not a sum: neighboring seeds must not share streams.
    digest = hashlib.blake2b(f"{seed}\x00{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _doubles(
    key: tuple[int, int], positions: Words, epochs: Words, first_block: int, num_blocks: int
) -> npt.NDArray[np.float64]:
    """Draw float64 ``[n, 2 num_blocks]`` in [0, 1): two numbers of 53 bits per block."""
    counters = np.empty((4, len(positions), num_blocks), np.uint64)
    counters[0] = np.arange(first_block, first_block + num_blocks, dtype=np.uint64)
    counters[1] = (positions & _LOW)[:, None]
    counters[2] = (positions >> _HALF)[:, None]
    counters[3] = epochs[:, None]
    words = philox4x32(counters.reshape(4, -1), key)
    bits = (words[0::2] << np.uint64(21)) ^ (words[1::2] >> np.uint64(11))
    numbers = bits.T.astype(np.float64) * 2.0**-53
    return numbers.reshape(len(positions), 2 * num_blocks)


def uniforms(
    seed: int, purpose: str, positions: npt.ArrayLike, *, epoch: npt.ArrayLike = 0, count: int = 1
) -> npt.NDArray[np.float64]:
    """Draw uniform numbers for many positions at once.

    Parameters
    ----------
    seed : int
        Seed of the run; any integer.
    purpose : str
        Use of the numbers; purposes have independent streams.
    positions : array_like of int
        ``[n]``, each at least 0: sample, step or position in an order.
    epoch : int or array_like of int
        Pass over the data, at least 0 and below 2**32; one for all, or ``[n]``.
    count : int
        Numbers per position.

    Returns
    -------
    ndarray of float64
        ``[n, count]`` in [0, 1) with 53 random bits each. A row depends only on its position and
        epoch, and a larger ``count`` only appends columns.
    """
    positions = np.atleast_1d(np.asarray(positions)).astype(np.uint64)
    epochs = np.broadcast_to(np.asarray(epoch).astype(np.uint64), positions.shape)
    num_blocks = max(1, -(-count // 2))
    rows = max(1, _BLOCKS_AT_ONCE // num_blocks)
    key = _key(seed, purpose)
    parts = [
        _doubles(key, positions[start : start + rows], epochs[start : start + rows], 0, num_blocks)
        for start in range(0, len(positions), rows)
    ]
    numbers = np.concatenate(parts) if parts else np.empty((0, 2 * num_blocks))
    return numbers[:, :count]


class Draws:
    """The stream of one position, number by number; equal to `uniforms` of the same arguments.

    ``buffer`` numbers are computed at once, which does not change what is drawn; ``first`` are the
    first numbers of the stream if already drawn, an even count.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        position: int,
        epoch: int = 0,
        *,
        buffer: int = 64,
        first: list[float] | None = None,
    ) -> None:
        self._key = _key(seed, purpose)
        self._position = np.array([position], np.uint64), np.array([epoch], np.uint64)
        self._step = max(1, -(-buffer // 2))
        self._numbers = first or []
        self._next = 0
        self._num_blocks = len(self._numbers) // 2

    @classmethod
    def many(
        cls, seed: int, purpose: str, positions: Iterable[int], epoch: int = 0, *, buffer: int = 64
    ) -> list["Draws"]:
        """Make one stream per position, all first buffers in one vectorized call."""
        at = [int(position) for position in positions]
        count = 2 * max(1, -(-buffer // 2))
        rows = uniforms(seed, purpose, at, epoch=epoch, count=count).tolist()
        return [
            cls(seed, purpose, position, epoch, buffer=buffer, first=row)
            for position, row in zip(at, rows, strict=True)
        ]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number in [``low``, ``high``)."""
        if self._next >= len(self._numbers):
            numbers = _doubles(self._key, *self._position, self._num_blocks, self._step)
            self._num_blocks += self._step
            self._numbers, self._next = numbers[0].tolist(), 0
        number = self._numbers[self._next]
        self._next += 1
        return low + (high - low) * number

    def integer(self, low: int, high: int) -> int:
        """Draw an integer in [``low``, ``high``)."""
        assert low < high, f"no integer in [{low}, {high})"
        return low + int(self.uniform() * (high - low))


class KeyedPermutation:
    """Shuffle ``0 .. n - 1`` without storing the order: index = permutation[position].

    A Feistel network over pairs (high, low) of the smallest grid ``rows x columns`` that covers n,
    with cycle walking for the cells beyond n (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains"). O(1) memory at any n below 2**62; any position is computed directly, so the
    state of a loader is one integer.

    ``seed``, ``purpose`` and ``epoch`` determine the order.
    """

    _NUM_ROUNDS = 12  # even; below 8 the orders of fewer than 10 samples are visibly uneven

    def __init__(self, n: int, seed: int, purpose: str = "order", epoch: int = 0) -> None:
        assert 1 <= n < 1 << 62, f"cannot permute {n} samples"
        self.n = n
        rows = math.isqrt(n - 1) + 1
        self._rows = np.uint64(rows)
        self._columns = np.uint64(-(-n // rows))
        numbers = uniforms(
            seed, f"permutation/{purpose}", [0], epoch=epoch, count=2 * self._NUM_ROUNDS
        )[0]
        words = (numbers * 2.0**32).astype(np.uint64)
        self._round_keys = (words[0::2] << _HALF) | words[1::2]

    def __len__(self) -> int:
        """Return n."""
        return self.n

    @overload
    def __getitem__(self, position: int) -> int: ...
    @overload
    def __getitem__(self, position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]: ...
    def __getitem__(self, position: int | npt.NDArray[np.int64]) -> int | npt.NDArray[np.int64]:
        """Return the sample at a position (an int, or int64 ``[...]`` for many)."""
        values = np.array(position, np.int64).reshape(-1)
        if np.any((values < 0) | (values >= self.n)):
            raise IndexError(f"position outside 0 .. {self.n - 1}")
        current = self._encrypt(values.astype(np.uint64))
        outside = np.flatnonzero(current >= self.n)
        while outside.size:
            current[outside] = self._encrypt(current[outside])
            outside = outside[current[outside] >= self.n]
        result = current.astype(np.int64).reshape(np.shape(position))
        return result if result.shape else int(result)

    def _encrypt(self, values: Words) -> Words:
        high, low = values // self._columns, values % self._columns
        for key in self._round_keys.reshape(-1, 2):
            high = (high + _mix(low, key[0], self._rows)) % self._rows
            low = (low + _mix(high, key[1], self._columns)) % self._columns
        return high * self._columns + low


def _mix(values: Words, key: np.uint64, modulus: np.uint64) -> Words:
    """Hash values with a key to [0, modulus): the finalizer of SplitMix64, Steele 2014."""
    mixed = values ^ key
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed % modulus
