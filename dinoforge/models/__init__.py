"""The vision transformer and its weights on disk.

A name is imported when it is asked for: recipes read `dinoforge.models.config` where there is no
torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinoforge.models.attention_choice import choose_attention
    from dinoforge.models.config import ARCHITECTURES, VitConfig
    from dinoforge.models.vit import VisionTransformer, build_vit
    from dinoforge.models.weights import load_backbone, save_backbone

__all__ = [
    "ARCHITECTURES",
    "VisionTransformer",
    "VitConfig",
    "build_vit",
    "choose_attention",
    "load_backbone",
    "save_backbone",
]

_HOMES = {
    "ARCHITECTURES": "config",
    "VisionTransformer": "vit",
    "VitConfig": "config",
    "build_vit": "vit",
    "choose_attention": "attention_choice",
    "load_backbone": "weights",
    "save_backbone": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
