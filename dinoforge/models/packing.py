"""Sequences of several lengths laid end to end: where each begins, in the forms that kernels want.

``shapes`` holds (B, N) of each crop size: B sequences of N tokens, one crop size after the other.
Nothing here touches a token.
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

# A training has a few layouts (student, teacher, each crop size alone); evaluations add some.
_KEPT_LAYOUTS = 64


def token_counts(shapes: Shapes) -> list[int]:
    """Count the tokens of each crop size."""
    return [batch * tokens for batch, tokens in shapes]


def sequence_lengths(shapes: Shapes) -> list[int]:
    """List the length of every sequence, in order."""
    return [tokens for batch, tokens in shapes for _ in range(batch)]


def longest_sequence(shapes: Shapes) -> int:
    """Return the tokens of the longest sequence; 0 where there is none."""
    # A list with the 0 in it: torch's compiler traces no `max(..., default=0)`.
    return max([0, *(tokens for batch, tokens in shapes if batch)])


def cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    """Say where every sequence begins, and where the last one ends.

    Computed on the device, without a copy from the host. Eager calls keep what they made by
    shapes and device; inside a compiled graph it is part of the graph, because a kept tensor
    would be a constant that belongs to one layout.

    Returns
    -------
    Tensor
        int32 ``[S + 1]`` for S sequences; the last value counts all tokens.
    """
    if torch.compiler.is_compiling():
        return _cumulative_lengths(shapes, device)
    return _kept_cumulative_lengths(tuple(shapes), device)


def _cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    parts, first = [], 0
    for batch, tokens in shapes:
        # Starts of this crop size; the end of its last sequence is the next one's first start.
        parts.append(torch.arange(batch, dtype=torch.int32, device=device) * tokens + first)
        first += batch * tokens
    end = torch.full((1,), first, dtype=torch.int32, device=device)
    return torch.cat([*parts, end])


@functools.lru_cache(maxsize=_KEPT_LAYOUTS)
def _kept_cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    # A tensor born in inference mode could never be saved for a backward pass later.
    with torch.inference_mode(mode=False):
        return _cumulative_lengths(shapes, device)


@functools.lru_cache(maxsize=_KEPT_LAYOUTS)
def block_diagonal_bias(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Any:
    """Make xformers' bias that lets a token see its own sequence only; kept by shapes and device.

    Returns
    -------
    xformers.ops.fmha.attn_bias.BlockDiagonalMask
        Holds the starts of the sequences, not the ``[T, T]`` matrix that it stands for.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    with torch.inference_mode(mode=False):
        return BlockDiagonalMask.from_seqlens(sequence_lengths(shapes), device=device)
