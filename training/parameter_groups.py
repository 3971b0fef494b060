"""Which parameter gets which share of the learning rate and of the weight decay.

The rules are those that trained the released weights: layer-wise decay of the learning rate, a
smaller one for the patch embedding, no weight decay on biases, norms and LayerScale. Class, mask
and register tokens, positions and ``weight_g`` of the heads *are* decayed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["ParameterRule", "clean_name", "optimizer_groups", "parameter_rules"]

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(?:\d+\.)?(\d+)\.")
_FIRST = ("cls_token", "pos_embed", "mask_token", "register_tokens", "patch_embed")


@dataclass(frozen=True)
class ParameterRule:
    """Multipliers of one parameter."""

    name: str
    lr_multiplier: float
    weight_decay_multiplier: float
    is_last_layer: bool  # prototypes: frozen at first


def clean_name(name: str) -> str:
    """Remove what wrappers add to a name: else layer-wise decay silently becomes uniform."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def parameter_rules(
    names: Iterable[str], *, depth: int, layerwise_decay: float, patch_embed_lr: float
) -> list[ParameterRule]:
    """Give each parameter its multipliers.

    Parameters
    ----------
    names : iterable of str
        Names inside a sub-network; chunked block names (``blocks.C.N.``) are understood.
    depth : int
        Blocks L of the backbone: block i gets ``decay ** (L - i)``, tokens and patch embedding
        ``decay ** (L + 1)``, the final norm and heads 1.
    layerwise_decay : float
        1.0 for none.
    patch_embed_lr : float
        Another factor for the patch embedding.
    """
    return [_rule(clean_name(n), depth, layerwise_decay, patch_embed_lr) for n in names]


def _rule(name: str, depth: int, decay: float, patch_embed_lr: float) -> ParameterRule:
    block = _BLOCK.search(name)
    if block is not None:
        layer = int(block[1]) + 1
    elif any(part in name for part in _FIRST):
        layer = 0
    else:
        layer = depth + 1
    multiplier = decay ** (depth + 1 - layer)
    if "patch_embed" in name:
        multiplier *= patch_embed_lr
    undecayed = name.endswith(".bias") or "norm" in name or "gamma" in name
    return ParameterRule(name, multiplier, 0.0 if undecayed else 1.0, "last_layer" in name)


def optimizer_groups(
    networks: nn.ModuleDict, *, depth: int, layerwise_decay: float, patch_embed_lr: float
) -> list[dict[str, Any]]:
    """Group all parameters with equal multipliers, for one fused update a group.

    Returns
    -------
    list of dict
        ``params``, ``lr_multiplier``, ``weight_decay_multiplier``, ``is_last_layer``, in a fixed
        order.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    named = dict(networks.named_parameters())
    rules = parameter_rules(
        named, depth=depth, layerwise_decay=layerwise_decay, patch_embed_lr=patch_embed_lr
    )
    for parameter, rule in zip(named.values(), rules, strict=True):
        key = (rule.lr_multiplier, rule.weight_decay_multiplier, rule.is_last_layer)
        groups[key].append(parameter)
    return [
        {
            "params": parameters,
            "lr_multiplier": lr,
            "weight_decay_multiplier": decay,
            "is_last_layer": is_last,
        }
        for (lr, decay, is_last), parameters in groups.items()
    ]
