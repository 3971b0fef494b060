"""Evaluations as the command runs them, and the data of a recipe as its first stage opens it."""

from pathlib import Path

import numpy as np

from dinoforge.evaluation.config import EvaluationConfig, named_sets
from dinoforge.evaluation.data import EvalData, Rules, arrange, open_sets
from dinoforge.evaluation.suite import evaluate
from dinoforge.records import Record
from dinoforge.stages import make_executor
from dinoforge.steps import export_file


def mean_colors(images):
    """Describe images by their mean colors: ``python:evaluations:mean_colors``."""
    return np.array([image.mean(axis=(0, 1)) for image in images], np.float32).reshape(-1, 3)


def evaluated(config: EvaluationConfig, folder: Path, on: str = "in-process") -> list[Record]:
    """Run an evaluation to its end."""
    executor = make_executor(on)
    try:
        return evaluate(config, folder, executor)
    finally:
        executor.close()


def open_data(config: EvaluationConfig, cache: Path) -> EvalData:
    """Open the only data set of a recipe."""
    (one,) = named_sets(config).values()
    rules = Rules(config.split, config.seed, config.protocols)
    return arrange(open_sets(one, cache, config.decode), one, rules)


def write_run(folder: Path, steps=(0, 50, 100), seed=0):
    """Write backbones with other random weights at every step, and for every seed."""
    from dinoforge.models.config import VitConfig
    from dinoforge.models.vit import build_vit
    from dinoforge.models.weights import save_backbone

    config = VitConfig(width=24, depth=1, heads=2, patch_size=8, image_size=24, init="xavier")
    for step in steps:
        path = export_file(folder, step)
        save_backbone(path, build_vit(config, seed=step + seed), {"step": str(step)})
    return folder
