"""Offsets of concatenated sequences of several lengths, in the forms that kernels expect.

``shapes`` has (B, N) per crop size: B sequences of N tokens, one crop size after the other.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Shapes",
    "block_diagonal_bias",
    "cumulative_lengths",
    "longest_sequence",
    "sequence_lengths",
    "token_counts",
]

Shapes = Sequence[tuple[int, int]]

# A training has a few layouts (student, teacher, each crop size); evaluations add some.
_CACHED_LAYOUTS = 64


def token_counts(shapes: Shapes) -> list[int]:
    """Count the tokens of each crop size."""
    return [batch * tokens for batch, tokens in shapes]


def sequence_lengths(shapes: Shapes) -> list[int]:
    """List the length of every sequence, in order."""
    return [tokens for batch, tokens in shapes for _ in range(batch)]


def longest_sequence(shapes: Shapes) -> int:
    """Return the tokens of the longest sequence; 0 without sequences."""
    # A list with the 0: torch's compiler cannot trace `max(..., default=0)`.
    return max([0, *(tokens for batch, tokens in shapes if batch)])


def cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    """Return the offset of every sequence and the end of the last one.

    Computed on the device, without a copy from the host. Eager calls cache it by shapes and
    device; compiled graphs compute it, because a cached tensor would be a constant of one layout.

    Returns
    -------
    Tensor
        int32 ``[S + 1]`` for S sequences; the last value counts all tokens.
    """
    if torch.compiler.is_compiling():
        return _cumulative_lengths(shapes, device)
    return _cached_cumulative_lengths(tuple(shapes), device)


def _cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    parts, first = [], 0
    for batch, tokens in shapes:
        # Starts of this crop size; the last end is the first start of the next one.
        parts.append(torch.arange(batch, dtype=torch.int32, device=device) * tokens + first)
        first += batch * tokens
    end = torch.full((1,), first, dtype=torch.int32, device=device)
    return torch.cat([*parts, end])


@functools.lru_cache(maxsize=_CACHED_LAYOUTS)
def _cached_cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    # A tensor made in inference mode cannot be saved for a backward pass.
    with torch.inference_mode(mode=False):
        return _cumulative_lengths(shapes, device)


@functools.lru_cache(maxsize=_CACHED_LAYOUTS)
def block_diagonal_bias(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Any:
    """Return xformers' bias that limits attention to the own sequence; cached.

    Returns
    -------
    xformers.ops.fmha.attn_bias.BlockDiagonalMask
        Stores the offsets of the sequences, not the ``[T, T]`` matrix that they define.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    with torch.inference_mode(mode=False):
        return BlockDiagonalMask.from_seqlens(sequence_lengths(shapes), device=device)
