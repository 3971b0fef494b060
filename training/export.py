"""The backbone as a file: ``export/step-000012500/model.safetensors``."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dinoforge.models.pooled.files import save_pooled
from dinoforge.models.pooled.heads import save_heads
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import save_backbone
from dinoforge.steps import export_file, step_name, steps_in
from dinoforge.training.build import build_backbone
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.ranks import rank
from dinoforge.training.methods.method import Method

__all__ = ["gather_backbone", "gather_tensors", "write_backbone"]

_NAMES = {
    "dinov2": "DINO + iBOT + KoLeo",
    "dino": "DINO",
    "paws": "PAWS",
    "suncet": "SuNCEt",
    "supervised": "labels alone",
    "distillation": "DINO + iBOT + KoLeo, frozen teacher",
}


def gather_backbone(method: Method) -> dict[str, Tensor]:
    """Copy the whole backbone to the CPU of rank 0; every rank must call it."""
    return gather_tensors(method.exported)


@torch.no_grad()
def gather_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Copy whole tensors to the CPU of rank 0; every rank must call it."""
    whole = {}
    for name, tensor in network.state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            whole[name] = full.to("cpu", copy=True)
    return whole


def write_backbone(
    run: Path,
    step: int,
    tensors: dict[str, Tensor],
    config: TrainingConfig,
    heads: Mapping[str, Tensor] = MappingProxyType({}),
) -> Path:
    """Write the backbone of ``step`` and delete older ones that the recipe does not keep.

    The tensors of ``heads``, if there are any, get a file beside it.

    Returns the path of the file; raises a `UsageError` if it cannot be written.
    """
    path = export_file(run, step)
    notes = {
        "step": str(step),
        "seed": str(config.seed),
        "trained_with": f"dinoforge {_NAMES[config.method]}",
        "crop_size": str(config.crops.global_size),
        "image_mean": json.dumps(config.crops.mean),
        "image_std": json.dumps(config.crops.std),
    }
    with torch.device("meta"):
        backbone = build_backbone(config)
    if isinstance(backbone, VisionTransformer):
        backbone.load_state_dict(tensors, assign=True)
        save_backbone(path, backbone, notes)
    else:
        notes["image_size"] = notes["crop_size"]
        save_pooled(path, backbone, tensors, notes)
    if heads:
        save_heads(path, heads, config.paws.activation)
    # Later ones are left over from a run whose checkpoints are damaged: they do not count as kept.
    folder = run / "export"
    for number in [n for n in steps_in(folder) if n <= step][: -config.checkpoint.keep]:
        if number % config.checkpoint.export_every:
            shutil.rmtree(folder / step_name(number))
    return path
