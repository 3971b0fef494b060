"""What a plan has to know of an encoder, without loading a network that need not be there."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from dinoforge.encoders.checkpoint import CheckpointEncoder
from dinoforge.encoders.make import make_encoder, split_vit
from dinoforge.encoders.stored import StoredVectors
from dinoforge.models.config import ARCHITECTURES, Architecture, VitConfig

__all__ = ["PlannedEncoder", "plan_encoder"]

_log = logging.getLogger(__name__)

# FLOP/s of one thread: a ViT-S/14 at 224 pixels on a Sapphire Rapids core
# (`benchmarks/extraction.py`), and MobileNetV2, whose products are small, on an EPYC core.
_VIT_RATE = 1.25e11
_MOBILENET_RATE = 3.9e10
_MOBILENET_FLOPS = 6.0e8  # at 224 pixels

# A network of SSCD as released: a ResNet-50 (but for `large`) at 320 pixels; its rate on an EPYC
# core, with weights that were drawn at random.
_SSCD = re.compile(r"torchscript:(.*/)?sscd_(?!.*large)\w+\.torchscript\.pt")
_RESNET50_FLOPS = 1.67e10
_RESNET50_RATE = 6.2e10

# As in dinov2_vitg14.pth and clip-vit-large-patch14.
_VIT_NAME = r"vit[-_]?([sblhg])(?:mall|ase|arge|uge|iant)?[-_]?(?:patch)?(8|14|16)"

# With the size that DINOv2 retrieved with (ViT-H/16, section 3), which it did not train.
_SIZES = {**ARCHITECTURES, "huge": Architecture(1280, 32, 16, "mlp")}


@dataclass(frozen=True)
class PlannedEncoder:
    """Size of an encoder; ``core_s`` is without decoding."""

    dim: int
    core_s: float | None  # seconds of a core per image; None: unknown
    flops: float | None  # per image on a GPU; 0: runs on the CPU only; None: unknown
    resizes: bool = True  # images to the side of the network


def plan_encoder(spec: str, model: VitConfig | None = None) -> PlannedEncoder:
    """Return what is known of the encoder of a spec, or of a ViT that need not exist yet.

    Raises
    ------
    UsageError
        If the dimension is known only to an encoder that cannot be opened here.
    """
    if model is not None:
        return _plan_vit(model, model.width)
    name, _, option = spec.partition("#")
    if name == "pixels":  # its time, decoding included, is that of `costs.PIXELS`
        return PlannedEncoder(128, 0.0, 0.0, resizes=False)
    if name == "mobilenetv2":
        flops = _MOBILENET_FLOPS * (int(option or 224) / 224) ** 2
        return PlannedEncoder(1280, flops / _MOBILENET_RATE, flops)
    if name in {"sscd", "sscd_distilled"}:  # by onnxruntime on the CPU: 20 and 60 images per second
        return PlannedEncoder(512, 1 / 20 if name == "sscd" else 1 / 60, 0.0)
    if _SSCD.fullmatch(spec):
        return PlannedEncoder(512, _RESNET50_FLOPS / _RESNET50_RATE, _RESNET50_FLOPS)
    if missing := _vit_by_name(spec):
        return _plan_vit(missing, missing.width)
    encoder = make_encoder(spec)
    if isinstance(encoder, CheckpointEncoder):
        return _plan_vit(encoder.model.config, encoder.dim)
    cost = 0.0 if isinstance(encoder, StoredVectors) else None
    return PlannedEncoder(encoder.dim, cost, cost)


def _vit_by_name(spec: str) -> VitConfig | None:
    """Return the ViT that the name of a missing file or folder promises, as ``vith16.pth``."""
    vit = split_vit(spec)
    if vit is None or Path(vit.path).exists():
        return None
    name = re.search(_VIT_NAME, Path(vit.path).name.lower())
    if name is None:
        return None
    size = next(s for s in _SIZES if s.startswith(name[1]))
    _log.warning(
        "%s is not there: planned as ViT-%s/%s by its name", vit.path, name[1].upper(), name[2]
    )
    return VitConfig(**{**_SIZES[size]._asdict(), "patch_size": int(name[2])})


def _plan_vit(vit: VitConfig, dim: int) -> PlannedEncoder:
    side = min(vit.image_size, 224)
    flops = vit.forward_flops((side // vit.patch_size) ** 2)
    return PlannedEncoder(dim, flops / _VIT_RATE, flops)
