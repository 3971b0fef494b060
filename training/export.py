"""The teacher's backbone as a file: ``export/step-000012500/model.safetensors``."""

import shutil
from pathlib import Path

from dinoforge.models import VisionTransformer, save_backbone
from training.checkpoint import step_name
from training.config import TrainingConfig
from training.method import Method

__all__ = ["export_backbone"]


def export_backbone(folder: Path, step: int, method: Method, config: TrainingConfig) -> Path:
    """Write the backbone of ``step``; of older ones keep the first and those that are due.

    Returns
    -------
    Path
        The ``model.safetensors``.
    """
    backbone = method.teacher["backbone"]
    assert isinstance(backbone, VisionTransformer)
    path = folder / step_name(step) / "model.safetensors"
    notes = {
        "step": str(step),
        "seed": str(config.seed),
        "trained_with": "dinoforge DINO + iBOT + KoLeo",
        "crop_size": str(config.crops.global_size),
    }
    save_backbone(path, backbone, notes)
    for old in sorted(folder.glob("step-*"))[: -config.checkpoint.keep]:
        number = int(old.name.removeprefix("step-"))
        if number % config.checkpoint.export_every:
            shutil.rmtree(old)
    return path
