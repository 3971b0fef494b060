"""torch.hub: any stored backbone, from a local clone that is not installed.

``torch.hub.load(CLONE, "backbone", PATH, source="local")``
"""

from pathlib import Path

from dinoforge.encoders.backbone import open_backbone
from dinoforge.models.config import PositionMode
from dinoforge.models.pooled.files import is_pooled, load_pooled
from dinoforge.models.pooled.network import PooledNetwork
from dinoforge.models.vit import VisionTransformer

dependencies = ["torch", "numpy", "omegaconf", "safetensors", "yaml"]


def backbone(path: str, positions: PositionMode | None = None) -> VisionTransformer | PooledNetwork:
    """Open a file of weights or a folder of transformers: float32, evaluation mode, CPU.

    ``positions`` is the mode of a ViT's file without one.
    """
    if is_pooled(Path(path)):
        return load_pooled(Path(path))[0]
    return open_backbone(Path(path), positions=positions).model
