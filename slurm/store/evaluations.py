"""What is measured of a training while it runs: recipes, kept exports, which of them are done.

::

    RUN/evaluation/NAME/recipe.yaml  cache/  step-000005000/{config.yaml,run.json,records.jsonl}
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dinoforge.exports import exported_steps, step_name, steps_in

__all__ = ["Evaluation", "Kept", "evaluation_stage"]


def evaluation_stage(name: str) -> str:
    """Name of the stage under which attempts, jobs and logs of a recipe are kept."""
    return f"evaluate-{name}"


@dataclass(frozen=True)
class Kept:
    """Which exports a training keeps for good: multiples of a number of steps, and the last."""

    every: int
    last: int

    @classmethod
    def of(cls, run: Path) -> "Kept":
        """Read the recipe of a training."""
        plain = _read_yaml(run / "config.yaml")
        return cls(int(plain["checkpoint"]["export_every"]), int(plain["steps"]))

    def steps(self, run: Path) -> list[int]:
        """List the steps that deserve to be measured and are exported, in order.

        Not step 0: every evaluation measures it as ``untrained``. Not one that a later export
        removes: an evaluation that waits in the queue would not find it.
        """
        steps = exported_steps(run)
        return [n for n in steps if n and (n % self.every == 0 or n == self.last)]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation recipe of a training."""

    run: Path
    name: str

    @property
    def folder(self) -> Path:
        """Everything of this recipe."""
        return self.run / "evaluation" / self.name

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def stage(self) -> str:
        """See `evaluation_stage`."""
        return evaluation_stage(self.name)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Keys and values of the recipe."""
        return _read_yaml(self.recipe)

    @property
    def device(self) -> str:
        """What the recipe wants to run on."""
        return str(self.plain.get("device", "auto"))

    def ours(self, step: int | None = None) -> dict[str, str]:
        """Recipe keys that the training decides; without a step those of the recipe itself."""
        place = self.folder if step is None else self.place(step)
        return {
            "out": str(place),
            "checkpoint": str(self.run),
            "checkpoints": "latest" if step is None else str(step),
            "cache": str(self.folder / "cache"),
        }

    def place(self, step: int) -> Path:
        """Run folder of the evaluation of one step."""
        return self.folder / step_name(step)

    def words(self, step: int) -> list[str]:
        """Arguments of ``dinoforge`` that measure one step."""
        ours = [f"{key}={value}" for key, value in self.ours(step).items()]
        return ["evaluate", str(self.recipe), *ours, "--update"]

    def is_done(self, step: int) -> bool:
        """Tell whether the evaluation's own records say that it is finished."""
        place = self.place(step)
        try:
            ended = json.loads((place / "run.json").read_text(encoding="utf-8"))["exit_code"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return ended == 0 and self.records(step).is_file()

    def records(self, step: int) -> Path:
        """File of what was measured of one step."""
        return self.place(step) / "records.jsonl"

    def forget(self) -> None:
        """Let no step count as done: what follows is measured by another recipe."""
        for step in steps_in(self.folder):
            self.records(step).unlink(missing_ok=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return plain
