"""Values per unit of the numbers that are shown, and their protocols, from their evaluations."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.config.load import flatten
from dinoforge.evaluation.compare.sources import Measurement
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.stages.protocol import read_outcomes
from dinoforge.evaluation.suite import PIPELINE, PROTOCOL_STAGES, STAGES
from dinoforge.evaluation.tables import EvaluationInputs, read_items
from dinoforge.records import Record
from dinoforge.runs import read_recipe
from dinoforge.stages import make_inputs

__all__ = ["Unitwise", "protocol_keys", "read_bootstrap", "read_values"]


@dataclass(frozen=True, eq=False)
class Unitwise:
    """A number with its values on every unit."""

    outcome: Outcome
    units: NDArray[np.int64]  # the unit of every test image, -1: of none

    def is_like(self, other: "Unitwise") -> bool:
        """Whether both have values on the same units, which become a number by the same rule."""
        a, b = self.outcome, other.outcome
        same = a.rule == b.rule and len(a.values) == len(b.values)
        return same and np.array_equal(self.units, other.units)


def read_bootstrap(folder: Path) -> BootstrapConfig:
    """Read how the evaluation in a folder was resampled; the defaults if it does not say."""
    said = read_recipe(folder).get("bootstrap") or {}
    known = {field.name for field in fields(BootstrapConfig)}
    return BootstrapConfig(**{name: value for name, value in said.items() if name in known})


_READ = ("input", "storage", "decode", "split")  # what all protocols depend on
_OF_BANK = ("train", "train_classes", "max_images", "subsets", "splits")
_ADDING = {"k", "per_class", "precision_at", "device"}  # keys that change no number, or add some


def protocol_keys(record: Record, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the keys of an evaluation that a number depends on, but for models and test images.

    Of paths of the bank the names, as data may have moved. Empty if the recipe is gone.
    """
    keys = next((one.keys for one in PROTOCOL_STAGES if one.name == _stage_of(record)), ())
    facts = dict(flatten({key: recipe[key] for key in (*_READ, *keys) if key in recipe}))
    name = record.benchmark.partition("/")[2].partition("/")[0].partition(" (")[0]
    bank = recipe.get("sets", {}).get(name, recipe)
    facts |= {f"sets.{key}": bank[key] for key in _OF_BANK if key in bank}
    if "train" in bank:
        facts["sets.train"] = [Path(path).name for path in bank["train"]]
    return {key: value for key, value in facts.items() if key.rpartition(".")[2] not in _ADDING}


def read_values(measurements: Sequence[Measurement]) -> list[Unitwise | None]:
    """Read the values of numbers; None where there are none any more."""
    by_stage: dict[tuple[Path, str], list[int]] = {}
    for at, m in enumerate(measurements):
        if not m.record.data:
            continue  # whether two test sets are the same is not known
        by_stage.setdefault((m.folder, _stage_of(m.record)), []).append(at)
    values: list[Unitwise | None] = [None] * len(measurements)
    for (folder, stage), numbers in by_stage.items():
        wanted = [measurements[at].record for at in numbers]
        with contextlib.suppress(OSError, EOFError, ValueError, KeyError):  # removed, or of others
            for which, unitwise in _read(folder, stage, wanted):
                values[numbers[which]] = unitwise
    return values


def _read(folder: Path, stage: str, records: Sequence[Record]) -> Iterator[tuple[int, Unitwise]]:
    inputs: EvaluationInputs = make_inputs(PIPELINE.name, STAGES, folder, EvaluationConfig())
    is_wanted = lambda record: any(_is_same(record, one) for one in records)  # noqa: E731
    for at, _, outcome in read_outcomes(inputs, stage, is_wanted):
        if len(outcome.values):
            unitwise = Unitwise(outcome, outcome.units[read_items(inputs, at).test])
            for which, record in enumerate(records):
                if _is_same(outcome.record, record):
                    yield which, unitwise


def _stage_of(record: Record) -> str:
    """Name of the stage that made a record: `few_shot` of few_shot_5/birds."""
    protocol = record.benchmark.partition("/")[0]
    names = [s.name for s in PROTOCOL_STAGES if f"{protocol}_".startswith(f"{s.name}_")]
    return max(names, key=len, default=protocol)


def _is_same(measured: Record, shown: Record) -> bool:
    """Whether a stage's record became the one that is shown, which has more settings."""
    is_here = f"{shown.benchmark} (".startswith(f"{measured.benchmark} (")  # (recipe)
    names = ("model", "metric", "value", "n", "checkpoint")
    same = is_here and all(getattr(measured, name) == getattr(shown, name) for name in names)
    return same and measured.settings.items() <= shown.settings.items()
