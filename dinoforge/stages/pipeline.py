"""A pipeline: its stages in order, and what happens before and after them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.device import resolve_device
from dinoforge.stages.executor import Executor
from dinoforge.stages.runner import run_stages
from dinoforge.stages.stage import Stage, stage_kind

__all__ = ["Pipeline", "find_pipeline", "run_pipeline"]


@dataclass(frozen=True)
class Pipeline:
    """Everything that a driver needs, in this process or on a cluster.

    A plan file names it by its import path.
    """

    name: str  # folder inside the run, e.g. ``curation``
    stages: tuple[Stage[Any], ...]  # in order; ``needs`` name earlier ones
    config: type  # dataclass of the recipe
    # (config) before anything is read, on any machine: raises what the user can fix. It must not
    # try the device, which is checked where a stage runs.
    check: Callable[[Any], None]
    reopen: Callable[[Path], None]  # (run folder) before a stage changes: no longer finished
    finish: Callable[[Path, Any], Any]  # (run folder, config) after the last stage: the summary


def run_pipeline(pipeline: Pipeline, run_folder: Path, config: Any, executor: Executor) -> Any:
    """Run a pipeline on this machine to its end; returns what ``finish`` returns.

    Raises
    ------
    UsageError
        At the start: what ``check`` finds, or a device that this machine does not have.
    """
    pipeline.check(config)
    if any(stage_kind(stage, config) == "gpu" for stage in pipeline.stages):
        resolve_device(config.device)
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
