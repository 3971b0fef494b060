"""The teacher's backbone as a file: ``export/step-000012500/model.safetensors``."""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import save_backbone
from dinoforge.steps import export_file, step_name, steps_in
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.ranks import rank
from dinoforge.training.method import Method

__all__ = ["gather_backbone", "write_backbone"]


@torch.no_grad()
def gather_backbone(method: Method) -> dict[str, Tensor]:
    """Copy the teacher's whole backbone to the CPU of rank 0; every rank must call it."""
    whole = {}
    for name, tensor in method.teacher["backbone"].state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            whole[name] = full.to("cpu", copy=True)
    return whole


def write_backbone(
    run: Path, step: int, tensors: dict[str, Tensor], config: TrainingConfig
) -> Path:
    """Write the backbone of ``step`` and delete older ones that the recipe does not keep.

    Returns the path of the file; raises a `UsageError` if it cannot be written.
    """
    with torch.device("meta"):
        backbone = VisionTransformer(config.model.vit(config.crops.global_size))
    backbone.load_state_dict(tensors, assign=True)
    path = export_file(run, step)
    notes = {
        "step": str(step),
        "seed": str(config.seed),
        "trained_with": "dinoforge DINO + iBOT + KoLeo",
        "crop_size": str(config.crops.global_size),
        "image_mean": json.dumps(config.crops.mean),
        "image_std": json.dumps(config.crops.std),
    }
    save_backbone(path, backbone, notes)
    # Later ones are left over from a run whose checkpoints are damaged: they do not count as kept.
    folder = run / "export"
    for number in [n for n in steps_in(folder) if n <= step][: -config.checkpoint.keep]:
        if number % config.checkpoint.export_every:
            shutil.rmtree(folder / step_name(number))
    return path
