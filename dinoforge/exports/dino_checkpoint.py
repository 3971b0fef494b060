"""A checkpoint that the scripts of DINO (2021) open: ``checkpoint.pth`` with a teacher.

Their `load_pretrained_weights` takes ``teacher`` of the file and removes ``module.`` and
``backbone.`` from its names.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dinoforge.exports.comparison import Tokens
from dinoforge.exports.source import Source
from dinoforge.files import write_bytes
from dinoforge.models.config import VitConfig
from dinoforge.models.weights import load_backbone

__all__ = ["dino_arguments", "find_dino_obstacles", "load_dino", "write_dino"]

_FILE = "checkpoint.pth"
_SIZES = {(192, 3): "vit_tiny", (384, 6): "vit_small", (768, 12): "vit_base"}  # width, heads


def find_dino_obstacles(config: VitConfig) -> Iterator[str]:
    """Name what the ViTs of DINO's scripts do not have."""
    if (config.width, config.heads) not in _SIZES or config.depth != 12:
        yield f"other sizes than {', '.join(_SIZES.values())}"
    if config.ffn != "mlp" or config.ffn_width != 4 * config.width:
        yield "another feed-forward layer"
    if config.registers:
        yield "registers"
    if config.layer_scale:
        yield "LayerScale"
    if config.positions == "rope":
        yield "rotary positions"
    if config.image_size != 224:
        yield f"images of {config.image_size} pixels (always 224)"


def dino_arguments(config: VitConfig) -> str:
    """Return the values of ``--arch`` and ``--patch_size``."""
    return f"{_SIZES[config.width, config.heads]} --patch_size {config.patch_size}"


def write_dino(source: Source, folder: Path) -> None:
    """Write ``checkpoint.pth``; the mask token is lost."""
    buffer = io.BytesIO()
    tensors = source.backbone.model.state_dict()
    teacher = {f"backbone.{name}": t for name, t in tensors.items() if name != "mask_token"}
    torch.save({"teacher": teacher}, buffer)
    write_bytes(folder / _FILE, buffer.getvalue())


def load_dino(folder: Path, _native: bool) -> Callable[[Tensor], Tokens]:
    """Open the checkpoint as a file of DINO; see `compare`."""
    model, _, _ = load_backbone(folder / _FILE)

    def run(pixels_B3XY: Tensor) -> Tokens:
        outputs = model.forward_features(pixels_B3XY)
        return Tokens(outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"])

    return run
