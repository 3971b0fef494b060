"""A pipeline as whoever drives it sees it: stages in order, and what frames them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinoforge.stages.executor import Executor
from dinoforge.stages.runner import run_stages
from dinoforge.stages.stage import Stage

__all__ = ["Pipeline", "find_pipeline", "run_pipeline", "stage_kind"]


@dataclass(frozen=True)
class Pipeline:
    """Everything that a driver must know, in this process or on a cluster.

    Drivers find it by its import path, so that a plan file can name it.
    """

    name: str  # folder inside the run, e.g. ``curation``
    stages: tuple[Stage, ...]  # in order; ``needs`` name earlier ones
    config: type  # dataclass of the recipe
    check: Callable[[Any], None]  # (config) before anything is read; raises what the user can mend
    reopen: Callable[[Path], None]  # (run folder) before a stage changes: the whole is not done
    finish: Callable[[Path, Any], Any]  # (run folder, config) after the last stage: the summary


def run_pipeline(pipeline: Pipeline, run_folder: Path, config: Any, executor: Executor) -> Any:
    """Bring a pipeline to its end through an executor; returns what ``finish`` returns."""
    pipeline.check(config)
    run_stages(
        pipeline.name,
        pipeline.stages,
        run_folder,
        config,
        executor,
        reopen=lambda: pipeline.reopen(run_folder),
    )
    return pipeline.finish(run_folder, config)


def find_pipeline(path: str) -> Pipeline:
    """Import the pipeline that ``module:NAME`` names."""
    module, _, name = path.partition(":")
    pipeline = getattr(importlib.import_module(module), name)
    assert isinstance(pipeline, Pipeline), f"{path} is no pipeline"
    return pipeline


def stage_kind(stage: Stage, config: Any) -> Literal["cpu", "gpu"]:
    """Tell which kind of machine a stage wants: who reads the recipe's ``device`` runs on it."""
    device = str(getattr(config, "device", "cpu")) if "device" in stage.keys else "cpu"
    return "cpu" if device == "cpu" else "gpu"
