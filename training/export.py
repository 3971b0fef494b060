"""The teacher's backbone as a file: ``export/step-000012500/model.safetensors``."""

import shutil
from pathlib import Path

from dinoforge.models import VisionTransformer, save_backbone
from training.checkpoint import saved_steps, step_name
from training.config import TrainingConfig
from training.method import Method

__all__ = ["export_backbone"]


def export_backbone(folder: Path, step: int, method: Method, config: TrainingConfig) -> Path:
    """Write the backbone of ``step``; of older ones keep the first and those that are due.

    Returns
    -------
    Path
        The ``model.safetensors``.

    Raises
    ------
    UsageError
        If it cannot be written.
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
    # Later ones were left by a run whose checkpoints are damaged: they do not count as kept.
    for number in [n for n in saved_steps(folder) if n <= step][: -config.checkpoint.keep]:
        if number % config.checkpoint.export_every:
            shutil.rmtree(folder / step_name(number))
    return path
