"""The vision transformer and its weights on disk.

Names are imported on first use: recipes read `dinoforge.models.config` without loading torch.
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


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("config", "vit", "weights", "attention_choice"):
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if value is not None:
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
