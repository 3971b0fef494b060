"""The vision transformer and its weights on disk."""

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
