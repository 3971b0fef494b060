"""Tensor names of DINOv3, as Meta and as transformers store them, brought to ours.

Storage tokens become register tokens; three projections of queries, keys and values, or two of the
gated feed-forward layer, become one each. Of Meta's files the key biases are masked, so they are
zero here.
"""

import logging
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.models.rope import periods

__all__ = ["TRANSFORMERS_PATCH_EMBED", "from_meta", "from_transformers", "is_meta"]

_log = logging.getLogger(__name__)

TRANSFORMERS_PATCH_EMBED = "embeddings.patch_embeddings.weight"

_PERIODS = "rope_embed.periods"
_ROUNDING = 2**-7  # of periods: Meta trains with them in bfloat16
_UNUSED = "local_cls_norm."  # of local crops, in training only

_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)


def is_meta(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a backbone without prefix has the names of Meta's DINOv3."""
    return _PERIODS in tensors


def from_meta(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename the tensors of Meta's DINOv3; ``where`` is the file, for errors.

    Raises
    ------
    UsageError
        If its rotary positions have other periods than the released models.
    """
    ready = dict(tensors)
    stored = ready.pop(_PERIODS).double()
    expected = periods(4 * len(stored))
    if not torch.allclose(stored, expected, rtol=_ROUNDING, atol=0):
        raise UsageError(
            what=f"rotary positions with periods {stored[0]:.3g} to {stored[-1]:.3g}",
            where=where,
            do=f"give a DINOv3 with periods {expected[0]:.3g} to {expected[-1]:.3g} (base 100)",
        )
    if "storage_tokens" in ready:
        ready["register_tokens"] = ready.pop("storage_tokens")
    for name in [name for name in ready if name.endswith(".attn.qkv.bias_mask")]:
        del ready[name]
        bias = name.removesuffix("_mask")
        if bias in ready:
            query, key, value = ready[bias].chunk(3)
            ready[bias] = torch.cat([query, torch.zeros_like(key), value])
    for name in [name for name in ready if name.startswith(_UNUSED)]:
        _log.info("%s: left out %s, which is used in training only", where, name)
        del ready[name]
    return _with_zero_biases(_join(ready, "mlp.w12", ("mlp.w1", "mlp.w2")))


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of transformers' ``DINOv3ViTModel``."""
    ready = {}
    for stored, tensor in tensors.items():
        name = stored
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        ready[name] = tensor
    if "mask_token" in ready:
        ready["mask_token"] = ready["mask_token"].reshape(1, -1)  # [1, 1, D] there
    if "register_tokens" in ready and ready["register_tokens"].numel() == 0:
        del ready["register_tokens"]
    names = {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
    if "blocks.0.mlp.gate_proj.weight" not in ready:
        names = {"up_proj": "fc1", "down_proj": "fc2"}
    for old, new in names.items():
        ready = {n.replace(f".mlp.{old}.", f".mlp.{new}."): t for n, t in ready.items()}
    ready = _join(ready, "mlp.w12", ("mlp.w1", "mlp.w2"))
    return _with_zero_biases(_join(ready, "attn.qkv", ("attn.q", "attn.k", "attn.v")))


def _join(tensors: Mapping[str, Tensor], joined: str, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Stack the outputs of linear layers in every block; a bias that some lack is zero."""
    ready = dict(tensors)
    for name in [name for name in tensors if name.endswith(f".{layers[0]}.weight")]:
        block = name.removesuffix(f"{layers[0]}.weight")
        parts = [
            (ready.pop(f"{block}{layer}.weight", None), ready.pop(f"{block}{layer}.bias", None))
            for layer in layers
        ]
        # A missing layer is reported by the shape.
        known = [(weight, bias) for weight, bias in parts if weight is not None]
        ready[f"{block}{joined}.weight"] = torch.cat([weight for weight, _ in known])
        if any(bias is not None for _, bias in known):
            ready[f"{block}{joined}.bias"] = torch.cat(
                [weight.new_zeros(len(weight)) if b is None else b for weight, b in known]
            )
    return ready


def _with_zero_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the biases of queries, keys and values that the 7B model lacks: it has all others."""
    for name in [name for name in tensors if name.endswith(".attn.qkv.weight")]:
        block = name.removesuffix("qkv.weight")
        if f"{block}proj.bias" in tensors and f"{block}qkv.bias" not in tensors:
            tensors[f"{block}qkv.bias"] = tensors[name].new_zeros(len(tensors[name]))
    return tensors
