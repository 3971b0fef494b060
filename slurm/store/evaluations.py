"""What is kept of a training and evaluated: recipes, kept exports, which of them are done.

::

    RUN/evaluation/NAME/recipe.yaml  cache/  step-000005000/{config.yaml,run.json,records.jsonl}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dinoforge.config import changed_keys, config_yaml, to_plain
from dinoforge.errors import UsageError
from dinoforge.exports import export_file, exported_steps, step_name, steps_in
from dinoforge.files import write_text

__all__ = [
    "Evaluation",
    "check_unchanged",
    "is_trained",
    "kept_exports",
    "reached_step",
    "succeeded",
    "write_recipes",
]


def reached_step(run: Path) -> int:
    """Step of the newest checkpoint; 0 before the first."""
    return max(steps_in(run / "checkpoints"), default=0)


def is_trained(run: Path) -> bool:
    """Tell whether a training has saved and exported its last step."""
    last = int(_read_yaml(run / "config.yaml")["steps"])
    return reached_step(run) >= last and export_file(run, reached_step(run)).is_file()


def kept_exports(run: Path) -> list[int]:
    """List the exported steps that a training keeps for good, in order.

    Multiples of ``checkpoint.export_every``, and the last. Not step 0: every evaluation measures it
    as ``untrained``. Not one that a later export removes: an evaluation that is pending would not
    find it.
    """
    config = _read_yaml(run / "config.yaml")
    every, last = int(config["checkpoint"]["export_every"]), int(config["steps"])
    return [n for n in exported_steps(run) if n and (n % every == 0 or n == last)]


def succeeded(run: Path) -> bool:
    """Tell whether ``run.json`` records that a command ended with exit code 0."""
    try:
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("exit_code") == 0


@dataclass(frozen=True)
class Evaluation:
    """One evaluation recipe of a training."""

    run: Path
    name: str

    @property
    def stage(self) -> str:
        """Name of the stage under which its attempts, jobs and logs are kept."""
        return f"evaluate-{self.name}"

    @property
    def folder(self) -> Path:
        """Everything of this recipe."""
        return self.run / "evaluation" / self.name

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

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
        """Tell whether the evaluation's own files record that it is finished."""
        return succeeded(self.step_folder(step)) and self.records(step).is_file()

    def arguments(self, step: int) -> list[str]:
        """Arguments of ``dinoforge`` that evaluate one step."""
        keys = self._decided | {"out": str(self.step_folder(step)), "checkpoints": str(step)}
        pairs = [f"{key}={value}" for key, value in keys.items()]
        return ["evaluate", str(self.recipe), *pairs, "--update"]

    def resolve(self, config: Any) -> Any:
        """Complete a recipe with the keys that the training decides."""
        return replace(config, **self._decided)

    def changes(self, config: Any) -> list[str]:
        """Keys in which a recipe differs from the one that is kept; none when none is kept."""
        if not self.recipe.is_file():
            return []
        kept = _read_yaml(self.recipe) | self._decided
        return changed_keys(kept, to_plain(self.resolve(config)))

    @property
    def _decided(self) -> dict[str, str]:
        return {
            "out": str(self.folder),
            "checkpoint": str(self.run),
            "checkpoints": "latest",
            "cache": str(self.folder / "cache"),
        }


def check_unchanged(run: Path, configs: Mapping[str, Any]) -> None:
    """Refuse a changed evaluation recipe of a run: one curve is measured by one recipe.

    Raises
    ------
    UsageError
        Naming the changed keys of the first one.
    """
    for name, config in configs.items():
        evaluation = Evaluation(run, name)
        if changed := evaluation.changes(config):
            raise UsageError(
                what=f"the evaluation {name} changed: {', '.join(f'`{key}`' for key in changed)}",
                where=str(evaluation.folder),
                do="give the recipe another name, or add --update (evaluate every step again)",
            )


def write_recipes(run: Path, configs: Mapping[str, Any]) -> None:
    """Write the evaluation recipes of a run; after a change no step counts as done."""
    for name, config in configs.items():
        evaluation = Evaluation(run, name)
        if evaluation.changes(config):
            for path in evaluation.folder.glob("step-*/records.jsonl"):
                path.unlink()
        write_text(evaluation.recipe, config_yaml(evaluation.resolve(config)))


def _read_yaml(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return plain
