"""Attention through one function; its back ends differ in speed, not in results.

Tokens of all sequences are concatenated, as in the linear layers before and after. ``sdpa`` (the
reference) and ``plain`` compute one crop size after the other, ``varlen`` and ``xformers`` all
sequences in one call; see `attention_choice`.

Shapes: T tokens of all sequences, B sequences of N tokens, H heads, E channels per head.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BACKENDS",
    "HALF_PRECISION",
    "Shapes",
    "attend",
    "attention_as_on_gpus",
    "attention_weights",
    "block_diagonal_bias",
    "cumulative_lengths",
    "longest_sequence",
    "sequence_lengths",
    "token_counts",
]

Shapes = Sequence[tuple[int, int]]  # (B, N) of each crop size, in the order of tokens; B may be 0

# A training has a few layouts (student, teacher, each crop size); evaluations add some.
_CACHED_LAYOUTS = 64

HALF_PRECISION = (torch.bfloat16, torch.float16)

_Dense = Callable[[Tensor, Tensor, Tensor], Tensor]


def attend(qkv_T3HE: Tensor, shapes: Shapes, backend: str = "sdpa") -> Tensor:
    """Compute attention within each sequence: ``[T, H, E]``, in the dtype of ``qkv_T3HE``.

    Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) without dropout, of the
    concatenated queries, keys and values, by one of `BACKENDS`.
    """
    return BACKENDS[backend](qkv_T3HE, shapes)


def attention_weights(q_BHNE: Tensor, k_BHNE: Tensor) -> Tensor:
    """Softmax of the scaled products, ``[B, H, N, N]``, float32 or float64; rows sum to 1."""
    scores_BHNN = q_BHNE * q_BHNE.shape[-1] ** -0.5 @ k_BHNE.transpose(-2, -1)
    return scores_BHNN.to(torch.promote_types(scores_BHNN.dtype, torch.float32)).softmax(dim=-1)


def _by_crop_size(dense: _Dense, qkv_T3HE: Tensor, shapes: Shapes) -> Tensor:
    """Call ``dense`` on the ``[B, H, N, E]`` of each crop size."""
    mixed = []
    for part_T3HE, shape in zip(qkv_T3HE.split(token_counts(shapes)), shapes, strict=True):
        q, k, v = part_T3HE.unflatten(0, shape).permute(2, 0, 3, 1, 4).unbind(0)
        # GPU kernels refuse an empty batch, which a run without local crops has.
        out_BHNE = dense(q, k, v) if shape[0] else v
        mixed.append(out_BHNE.transpose(1, 2).flatten(0, 1))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


_float32_on_cpus = True  # a plain global: torch.compile cannot trace a ContextVar


@contextlib.contextmanager
def attention_as_on_gpus() -> Iterator[None]:
    """Keep bfloat16 in `sdpa` on CPUs too: for plans, whose fake tensors are on the CPU."""
    global _float32_on_cpus  # noqa: PLW0603
    _float32_on_cpus = False
    try:
        yield
    finally:
        _float32_on_cpus = True


def _sdpa_dense(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    half_on_cpu = q_BHNE.device.type == "cpu" and q_BHNE.dtype == torch.bfloat16
    if half_on_cpu and _float32_on_cpus:
        # On CPUs attention in bfloat16 takes 1.8 times as long as float32 (measured on
        # 8 x 257 + 32 x 50 tokens, 6 heads of 64, Zen 4, torch 2.13; its backward pass on 17
        # tokens 4 times), unlike matrix products. Autocast would undo the cast.
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q_BHNE.float(), k_BHNE.float(), v_BHNE.float())
        return out.to(q_BHNE.dtype)
    return F.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE)


def _plain_dense(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    return attention_weights(q_BHNE, k_BHNE).to(v_BHNE.dtype) @ v_BHNE


def _varlen(qkv_T3HE: Tensor, shapes: Shapes) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Under autocast the linear layer has already cast; casting float32 here would silently deny
    # the full precision that was requested.
    assert qkv_T3HE.dtype in HALF_PRECISION, "varlen attention needs autocast to half precision"
    q_THE, k_THE, v_THE = qkv_T3HE.unbind(1)
    if not len(v_THE):  # the kernel refuses a batch without sequences
        return v_THE
    starts, longest = cumulative_lengths(shapes, v_THE.device), longest_sequence(shapes)
    out_THE = varlen_attn(q_THE, k_THE, v_THE, starts, starts, longest, longest)
    assert isinstance(out_THE, Tensor), "a pair is returned only with auxiliary output"
    return out_THE


def _xformers(qkv_T3HE: Tensor, shapes: Shapes) -> Tensor:
    from xformers.ops import memory_efficient_attention

    q_1THE, k_1THE, v_1THE = qkv_T3HE[None].unbind(2)
    if not v_1THE.shape[1]:
        return v_1THE[0]
    bias = block_diagonal_bias(tuple(shapes), v_1THE.device)
    out_1THE: Tensor = memory_efficient_attention(q_1THE, k_1THE, v_1THE, attn_bias=bias)
    return out_1THE[0]


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
    """Return the offsets of S sequences and the end of the last one, int32 ``[S + 1]``.

    Computed on the device, without a copy from the host. Eager calls cache it by shapes and
    device; compiled graphs compute it, because a cached tensor would be a constant of one layout.
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


@lru_cache(maxsize=_CACHED_LAYOUTS)
def _cached_cumulative_lengths(shapes: Shapes, device: torch.device) -> Tensor:
    # A tensor made in inference mode cannot be saved for a backward pass.
    with torch.inference_mode(mode=False):
        return _cumulative_lengths(shapes, device)


@lru_cache(maxsize=_CACHED_LAYOUTS)
def block_diagonal_bias(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Any:
    """Return xformers' bias that limits attention to the own sequence; cached.

    It stores the offsets of the sequences, not the ``[T, T]`` matrix that they define.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    with torch.inference_mode(mode=False):
        return BlockDiagonalMask.from_seqlens(sequence_lengths(shapes), device=device)


BACKENDS: Mapping[str, Callable[[Tensor, Shapes], Tensor]] = {
    "sdpa": partial(_by_crop_size, _sdpa_dense),
    "plain": partial(_by_crop_size, _plain_dense),
    "varlen": _varlen,
    "xformers": _xformers,
}
