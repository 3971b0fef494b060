"""Any backbone on disk as an encoder: ours, or released weights that `load_backbone` reads."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of
from dinoforge.encoders.network import Transform, check_device, encode_with
from dinoforge.errors import UsageError
from dinoforge.hashing import sha256_file
from dinoforge.models.weights import IMAGE_MEAN, IMAGE_STD, load_backbone

if TYPE_CHECKING:
    from dinoforge.models.vit import VisionTransformer

__all__ = ["FEATURES", "CheckpointEncoder"]

# Longer sides than the native one cost attention with its square and are seldom wanted.
_LARGEST_SIDE = 224


def _cls(tokens: Mapping[str, Tensor]) -> Tensor:
    return tokens["x_norm_clstoken"]


def _patch_mean(tokens: Mapping[str, Tensor]) -> Tensor:
    return tokens["x_norm_patchtokens"].mean(dim=1)


def _both(tokens: Mapping[str, Tensor]) -> Tensor:
    parts = [_cls(tokens).float(), _patch_mean(tokens).float()]
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], dim=1)


FEATURES: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "cls": _cls,
    "patch_mean": _patch_mean,
    "both": _both,
}


class CheckpointEncoder:
    """Class token, mean of the patch tokens, or both (each of norm 1) of a ViT.

    Parameters
    ----------
    path : Path
        ``.safetensors``, ``.pth`` or ``.pt``.
    features : str
        ``cls``, ``patch_mean`` or ``both``.
    device : str
        Where it runs.

    Raises
    ------
    UsageError
        If the file does not hold a backbone.
    """

    def __init__(self, path: Path, features: str = "cls", *, device: str = "cpu") -> None:
        if not path.is_file():
            raise UsageError(
                what="no such checkpoint",
                where=str(path),
                do="give the path of a .safetensors or .pth file",
            )
        model, config, metadata = load_backbone(path)
        check_device(device)
        self.name = f"checkpoint:{path}" + ("" if features == "cls" else f"#{features}")
        self.dim = config.width * (2 if features == "both" else 1)
        self._device = device
        self._model: VisionTransformer = model.to(device)
        self._pick = FEATURES[features]
        self._transform = Transform(
            side=_side(config.image_size, config.patch_size),
            mean=_three(metadata, "image_mean", IMAGE_MEAN),
            std=_three(metadata, "image_std", IMAGE_STD),
        )
        self.fingerprint = fingerprint_of(
            encoder="checkpoint",
            weights=sha256_file(path),
            features=features,
            transform=[self._transform.side, *self._transform.mean, *self._transform.std],
        )

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        return encode_with(self._forward, images, self._transform, self.dim, self._device)

    def _forward(self, batch_B3SS: Tensor) -> Tensor:
        return self._pick(self._model.forward_features(batch_B3SS))


def _side(native: int, patch: int) -> int:
    """Pixels of the input: the native size up to 224, a whole number of patches."""
    return max(patch, min(native, _LARGEST_SIDE) // patch * patch)


def _three(
    metadata: Mapping[str, str], name: str, otherwise: tuple[float, ...]
) -> tuple[float, ...]:
    return tuple(map(float, json.loads(metadata[name]))) if name in metadata else otherwise
