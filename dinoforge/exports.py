"""Folders named after a training step, and the backbones that a training exports into them.

``RUN/export/step-000012500/model.safetensors``; checkpoints and evaluations of a step have folders
of the same name.
"""

import re
from pathlib import Path

__all__ = ["export_file", "exported_steps", "step_name", "steps_in"]

_NAME = re.compile(r"step-(\d{9,})")


def step_name(step: int) -> str:
    """Name of the folder of a step: ``step-000012500``."""
    return f"step-{step:09d}"


def steps_in(folder: Path) -> list[int]:
    """List the steps that have an entry in a folder, in order; empty without a folder."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def export_file(run: Path, step: int) -> Path:
    """Path of the backbone that a training run exports at a step."""
    return run / "export" / step_name(step) / "model.safetensors"


def exported_steps(run: Path) -> dict[int, Path]:
    """Find the backbones that a training run has exported: step -> file, in order."""
    files = {step: export_file(run, step) for step in steps_in(run / "export")}
    return {step: file for step, file in files.items() if file.is_file()}
