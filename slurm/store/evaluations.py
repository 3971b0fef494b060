"""Evaluations of the exports of a training: their recipes, and which of them are done.

::

    RUN/evaluation/NAME/recipe.yaml  cache/  step-000005000/{config.yaml,run.json,records.jsonl}
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dinoforge.config import Config, changed_keys, config_yaml, to_plain
from dinoforge.errors import UsageError
from dinoforge.files import write_text
from dinoforge.runs import succeeded
from dinoforge.steps import kept_exports, step_name

__all__ = ["Evaluation", "check_unchanged", "write_recipes"]


class Evaluation:
    """One evaluation recipe of a training; its attempts, jobs and logs are those of ``stage``."""

    def __init__(self, run: Path, name: str) -> None:
        self.run, self.name = run, name
        self.stage = f"evaluate-{name}"
        self.folder = run / "evaluation" / name
        self.recipe = self.folder / "recipe.yaml"  # resolved
        # Keys of the recipe that the training decides.
        self.decided = {"out": str(self.folder), "checkpoint": str(run), "checkpoints": "latest"}
        self.decided |= {"cache": str(self.folder / "cache")}

    @property
    def device(self) -> str:
        """Device that the recipe asks for."""
        return str(_read_yaml(self.recipe).get("device", "auto"))

    def step_folder(self, step: int) -> Path:
        """Run folder of the evaluation of one step."""
        return self.folder / step_name(step)

    def records(self, step: int) -> Path:
        """File with the records of one step."""
        return self.step_folder(step) / "records.jsonl"

    def is_done(self, step: int) -> bool:
        """Return whether the evaluation's own files record that it is finished."""
        return succeeded(self.step_folder(step)) and self.records(step).is_file()

    def missing(self) -> list[int]:
        """List the kept exports whose evaluation is not done."""
        return [step for step in kept_exports(self.run) if not self.is_done(step)]

    def arguments(self, step: int) -> list[str]:
        """Arguments of ``dinoforge`` that evaluate one step."""
        keys = self.decided | {"out": str(self.step_folder(step)), "checkpoints": str(step)}
        pairs = [f"{key}={value}" for key, value in keys.items()]
        return ["evaluate", str(self.recipe), *pairs, "--update"]

    def changes(self, config: Config) -> list[str]:
        """Keys in which a recipe differs from the one that is kept; none when none is kept."""
        if not self.recipe.is_file():
            return []
        kept = _read_yaml(self.recipe) | self.decided
        return changed_keys(kept, to_plain(replace(config, **self.decided)))


def check_unchanged(run: Path, configs: Mapping[str, Config]) -> None:
    """Raise `UsageError` if an evaluation recipe of a run changed: one recipe measures a curve."""
    for name, config in configs.items():
        evaluation = Evaluation(run, name)
        if changed := evaluation.changes(config):
            raise UsageError(
                what=f"the evaluation {name} changed: {', '.join(f'`{key}`' for key in changed)}",
                where=str(evaluation.folder),
                do="give the recipe another name, or add --update (evaluate every step again)",
            )


def write_recipes(run: Path, configs: Mapping[str, Config]) -> None:
    """Write the evaluation recipes of a run; after a change no step counts as done."""
    for name, config in configs.items():
        evaluation = Evaluation(run, name)
        if evaluation.changes(config):
            for path in evaluation.folder.glob("step-*/records.jsonl"):
                path.unlink()
        write_text(evaluation.recipe, config_yaml(replace(config, **evaluation.decided)))


def _read_yaml(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return plain
