"""Folders named after a training step, and the backbones that a training exports into them.

``RUN/export/step-000012500/model.safetensors``; checkpoints and evaluations of a step have folders
of the same name.
"""

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "MANIFEST",
    "checkpoints_in",
    "export_file",
    "exported_steps",
    "is_trained",
    "kept_exports",
    "reached_step",
    "step_name",
    "step_of_name",
    "steps_in",
]

MANIFEST = "manifest.json"  # of a checkpoint: its step and files

_NAME = re.compile(r"step-(\d{9,})")


def step_name(step: int) -> str:
    """Name of the folder of a step: ``step-000012500``."""
    return f"step-{step:09d}"


def step_of_name(name: str) -> int | None:
    """Step of a folder by its name; None for another name."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


def steps_in(folder: Path) -> list[int]:
    """List the steps that have an entry in a folder, in order; empty without a folder."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(step for name in names if (step := step_of_name(name)) is not None)


def export_file(run: Path, step: int) -> Path:
    """Path of the backbone that a training run exports at a step."""
    return run / "export" / step_name(step) / "model.safetensors"


def exported_steps(run: Path) -> dict[int, Path]:
    """Find the backbones that a training run has exported: step -> file, in order."""
    files = {step: export_file(run, step) for step in steps_in(run / "export")}
    return {step: file for step, file in files.items() if file.is_file()}


def kept_exports(run: Path) -> list[int]:
    """List the exported steps that a training keeps for good, in order.

    Multiples of ``checkpoint.export_every``, and the last. Not step 0: every evaluation measures it
    as ``untrained``. Not one that a later export removes: an evaluation that is pending would not
    find it.
    """
    config = _recipe(run)
    every, last = int(config["checkpoint"]["export_every"]), int(config["steps"])
    return [n for n in exported_steps(run) if n and (n % every == 0 or n == last)]


def checkpoints_in(folder: Path) -> list[Path]:
    """List the checkpoints in the folder of a run's checkpoints, the oldest first."""
    return [folder / step_name(step) for step in steps_in(folder)]


def reached_step(run: Path) -> int:
    """Step of the newest checkpoint; 0 before the first."""
    return max(steps_in(run / "checkpoints"), default=0)


def is_trained(run: Path) -> bool:
    """Return whether a training has saved and exported its last step."""
    step = reached_step(run)
    return step >= int(_recipe(run)["steps"]) and export_file(run, step).is_file()


def _recipe(run: Path) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return plain
