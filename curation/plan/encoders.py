"""What a plan has to know of an encoder, without loading a network that need not be there."""

from dataclasses import dataclass

from dinoforge.encoders.checkpoint import CheckpointEncoder
from dinoforge.encoders.make import make_encoder
from dinoforge.models.config import VitConfig

__all__ = ["PlannedEncoder", "plan_encoder"]

# FLOP/s of one thread: a ViT-S/14 at 224 pixels on a Sapphire Rapids core
# (`benchmarks/extraction.py`), and MobileNetV2, whose products are small, on an EPYC core.
_VIT_RATE = 1.25e11
_MOBILENET_RATE = 3.9e10
_MOBILENET_FLOPS = 6.0e8  # at 224 pixels


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
    encoder = make_encoder(spec)
    if isinstance(encoder, CheckpointEncoder):
        return _plan_vit(encoder.model.config, encoder.dim)
    return PlannedEncoder(encoder.dim, None, None)


def _plan_vit(vit: VitConfig, dim: int) -> PlannedEncoder:
    side = min(vit.image_size, 224)
    flops = vit.forward_flops((side // vit.patch_size) ** 2)
    return PlannedEncoder(dim, flops / _VIT_RATE, flops)
