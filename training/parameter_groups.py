"""Which parameter gets which multiple of the learning rate and of the weight decay.

The rules are those that trained the released weights: layer-wise decay of the learning rate, a
smaller one for the patch embedding, no weight decay on biases, norms and LayerScale, which have one
dimension. Class, mask and register tokens, positions and ``weight_g`` of the heads *are* decayed.
What is not decayed has no rate of its own under LARS either.

In the ResNet-50 of PAWS the norms ``downsample.1`` are decayed and adapted, because their names
lack "bn"; here they are not, as in DINO, which goes by dimensions.
"""

import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

__all__ = ["ParameterRule", "clean_name", "optimizer_groups", "parameter_rule"]

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(?:\d+\.)?(\d+)\.")
_UNDECAYED = re.compile(r"norm|gamma|(^|\.)bn\d")  # norms, LayerScale
_FIRST = ("cls_token", "pos_embed", "mask_token", "register_tokens", "patch_embed")


@dataclass(frozen=True)
class ParameterRule:
    """Multipliers of one parameter."""

    lr_multiplier: float
    weight_decay_multiplier: float
    is_last_layer: bool  # prototypes: frozen at first


def clean_name(name: str) -> str:
    """Remove what wrappers add to a name: else layer-wise decay would silently be uniform."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def parameter_rule(
    name: str, *, depth: int, layerwise_decay: float, patch_embed_lr: float
) -> ParameterRule:
    """Return the multipliers of a parameter; chunked block names (``blocks.C.N.``) are understood.

    Of L = ``depth`` blocks, block i gets ``layerwise_decay ** (L - i)``, tokens and patch embedding
    ``layerwise_decay ** (L + 1)``, the latter times ``patch_embed_lr``; the final norm and heads 1.
    """
    name = clean_name(name)
    block = _BLOCK.search(name)
    if block is not None:
        layer = int(block[1]) + 1
    elif any(part in name for part in _FIRST):
        layer = 0
    else:
        layer = depth + 1
    multiplier = layerwise_decay ** (depth + 1 - layer)
    if "patch_embed" in name:
        multiplier *= patch_embed_lr
    undecayed = name.endswith(".bias") or _UNDECAYED.search(name) is not None
    return ParameterRule(multiplier, 0.0 if undecayed else 1.0, "last_layer" in name)


def optimizer_groups(networks: nn.ModuleDict, **settings: Any) -> list[dict[str, Any]]:
    """Group the parameters with equal multipliers, for one fused update per group.

    Takes the settings of `parameter_rule`; each group holds ``params`` and the fields of a
    `ParameterRule`, in a fixed order.
    """
    groups: dict[ParameterRule, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in networks.named_parameters():
        rule = parameter_rule(name, **settings)
        if parameter.ndim == 1:  # norms of any name, as timm has them
            rule = replace(rule, weight_decay_multiplier=0.0)
        groups[rule].append(parameter)
    return [{"params": parameters, **asdict(rule)} for rule, parameters in groups.items()]
