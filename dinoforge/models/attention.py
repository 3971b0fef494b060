"""Attention through one function; its back ends differ in speed, not in results.

Shapes: B sequences, H heads, N tokens, E channels of a head.
"""

import importlib.util
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.errors import UsageError

__all__ = ["BACKENDS", "attend", "attention_weights", "choose_backend"]


def _sdpa(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    if q_BHNE.device.type == "cpu" and q_BHNE.dtype == torch.bfloat16:
        # On CPUs attention in bfloat16 takes 1.8 times as long as in float32 (measured on
        # 8 x 257 + 32 x 50 tokens, 6 heads of 64, Zen 4, torch 2.13; its backward pass on 17
        # tokens 4 times), unlike matrix products. Autocast would undo the conversion.
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q_BHNE.float(), k_BHNE.float(), v_BHNE.float())
        return out.to(q_BHNE.dtype)
    return F.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE)


def _plain(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    return attention_weights(q_BHNE, k_BHNE).to(v_BHNE.dtype) @ v_BHNE


def _xformers(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention

    q, k, v = (x.transpose(1, 2) for x in (q_BHNE, k_BHNE, v_BHNE))
    out_BNHE: Tensor = memory_efficient_attention(q, k, v)
    return out_BNHE.transpose(1, 2)


BACKENDS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "plain": _plain,
    "xformers": _xformers,
}


def attention_weights(q_BHNE: Tensor, k_BHNE: Tensor) -> Tensor:
    """Softmax of the scaled products, ``[B, H, N, N]``, float32 or float64; rows sum to 1."""
    scores_BHNN = q_BHNE * q_BHNE.shape[-1] ** -0.5 @ k_BHNE.transpose(-2, -1)
    return scores_BHNN.to(torch.promote_types(scores_BHNN.dtype, torch.float32)).softmax(dim=-1)


def attend(q_BHNE: Tensor, k_BHNE: Tensor, v_BHNE: Tensor, backend: str = "sdpa") -> Tensor:
    """Scaled dot-product attention ``[B, H, N, E]`` by one of `BACKENDS`."""
    return BACKENDS[backend](q_BHNE, k_BHNE, v_BHNE)


def choose_backend(name: str, device: str) -> str:
    """Check that a back end can run here, and return its name.

    Raises
    ------
    UsageError
        If it is unknown, or needs a package or a device that is not there.
    """
    if name not in BACKENDS:
        raise UsageError(
            what=f"unknown attention back end `{name}`",
            where="model.attention",
            do=f"choose one of {', '.join(BACKENDS)}",
        )
    if name == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise UsageError(
                what="xformers is not installed",
                where="model.attention=xformers",
                do='pip install "dinoforge[gpu]", or model.attention=sdpa',
            )
        if not device.startswith("cuda"):
            raise UsageError(
                what="xformers attention runs on CUDA devices only",
                where="model.attention=xformers",
                do="device=cuda, or model.attention=sdpa",
            )
    return name
