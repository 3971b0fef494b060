"""The runs that a comparison reads: their records, and the folders that hold the values per unit.

A path is an evaluation, a folder of several (steps, recipes), a training with evaluations, or a
file of records. A run may have been moved: nothing here uses an absolute path that it recorded,
except to find the training that it evaluated.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinoforge.config.paths import read_path
from dinoforge.errors import UsageError, damaged
from dinoforge.evaluation.report.facts import find_evaluations
from dinoforge.evaluation.scores import step_of
from dinoforge.records import Record, read_records
from dinoforge.runs import read_facts, read_recipe, working_folders
from dinoforge.steps import step_of_name

__all__ = ["TRAINED", "Measurement", "Run", "as_run", "read_runs"]

TRAINED = "trained"  # how records name the model that an evaluation is about
_GENERIC = ("evaluation", "evaluations")  # folders that say nothing about a run


@dataclass(frozen=True)
class Measurement:
    """A record and where it comes from."""

    record: Record
    run: str  # name of the run
    folder: Path  # of the evaluation: values per unit are in its stages, if they are still there

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """What distinguishes the numbers of one model: benchmark, metric, features, k."""
        settings = self.record.settings
        features, k = str(settings.get("features") or ""), settings.get("k")
        return self.record.benchmark, self.record.metric, features, k

    @property
    def step(self) -> int | None:
        """Training step: that of the record, or of a folder of the step that holds it."""
        step = step_of(self.record)
        if step is None and self.record.model == TRAINED:
            return step_of_name(self.folder.name)
        return step


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one path of the command line names."""

    name: str
    is_named: bool  # NAME=PATH
    path: Path
    measurements: tuple[Measurement, ...]  # without differences; of all steps
    recipe: Mapping[str, Any]  # of the training that was evaluated; empty if it is not known

    @property
    def checkpoint(self) -> str:
        """Newest checkpoint that it calls `trained`; "" if there is none."""
        trained = [m for m in self.measurements if m.record.model == TRAINED]
        newest = max(trained, key=lambda m: m.step or 0, default=None)
        return "" if newest is None else newest.record.checkpoint


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """Read ``[NAME=]PATH`` arguments; runs without a name get that of their folder, made unique.

    Raises
    ------
    UsageError
        If there are no records below a path, or they are damaged.
    """
    given = [_split(text) for text in arguments]
    names = _unique_names([path for name, path in given if not name])
    runs = []
    for name, path in given:
        called = name or names[path]
        measurements = _measurements(path, called)
        folders = dict.fromkeys(m.folder for m in measurements)
        recipes = (_training_recipe(folder) for folder in (path, *folders))
        runs.append(
            Run(
                name=called,
                is_named=bool(name),
                path=path,
                measurements=tuple(measurements),
                recipe=next(filter(None, recipes), {}),
            )
        )
    return runs


def as_run(records: Sequence[Record]) -> Run:
    """Return the records of one evaluation as a run that is nowhere on disk."""
    some = tuple(Measurement(r, TRAINED, Path()) for r in records if not r.is_difference)
    return Run(name=TRAINED, is_named=True, path=Path(), measurements=some, recipe={})


def _split(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    # A folder may have = in its name. `Path.exists` raises for long words.
    if not equals or "/" in name or os.path.exists(text):  # noqa: PTH110
        name, path = "", text
    try:
        return name, Path(read_path(path))
    except ValueError as error:
        raise UsageError(what=str(error), where=text, do="give [NAME=]PATH of a run") from error


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name every path by as few of its last folders as make it unique."""
    parts = {}
    for path in paths:
        folder = Path(os.path.normpath(path.absolute()))
        folder = folder.parent if folder.suffix == ".jsonl" else folder
        said = [part for part in folder.parts if part not in _GENERIC]
        parts[path] = said[1:] or [folder.name]
    longest = max(map(len, parts.values()), default=0)
    names: dict[Path, str] = {}
    for length in range(1, longest + 1):
        short = {path: "/".join(some[-length:]) for path, some in parts.items()}
        uses = Counter("/".join(some[-length:]) for some in {*map(tuple, parts.values())})
        for path, name in short.items():
            if uses[name] == 1 or length == longest:
                names.setdefault(path, name)
    return names


def _measurements(path: Path, run: str) -> list[Measurement]:
    """Read the records below a path; if two recipes measured the same benchmark, name both."""
    if path.is_file():
        by_recipe = {"": [(path.parent, path)]}
    else:
        by_recipe = {
            recipe: [(folder, folder / "records.jsonl") for folder in folders]
            for recipe, folders in _evaluations(path).items()
        }
    measured: dict[str, list[Measurement]] = {}
    for recipe, files in by_recipe.items():
        measured[recipe] = []
        for number, (folder, file) in enumerate(files):
            some = [Measurement(r, run, folder) for r in _read(file) if not r.is_difference]
            if number:  # of earlier steps; what is not trained is the same at every step
                some = [m for m in some if m.record.model == TRAINED and m.step is not None]
            measured[recipe] += some
    uses = Counter(b for some in measured.values() for b in {m.record.benchmark for m in some})
    measurements = [
        replace(m, record=replace(m.record, benchmark=f"{m.record.benchmark} ({recipe})"))
        if uses[m.record.benchmark] > 1
        else m
        for recipe, some in measured.items()
        for m in some
    ]
    if not measurements:
        raise UsageError(
            what="no records" if path.exists() else "no such file or folder",
            where=str(path),
            do="give the out=FOLDER of a finished `dinoforge evaluate`, a training that was "
            "evaluated, or a records.jsonl",
        )
    return measurements


def _evaluations(path: Path) -> dict[str, list[Path]]:
    if read_facts(path).get("command") != "train" and (runs := find_evaluations(path)):
        return runs
    return find_evaluations(path / "evaluation")


def _read(file: Path) -> list[Record]:
    try:
        records = read_records(file)
    except OSError as error:
        raise damaged(file, error) from error
    for record in records:
        numbers = [record.value, record.n, *(record.interval or (0.0, 0.0))]
        is_number = all(isinstance(number, int | float) for number in numbers)
        if not (is_number and len(numbers) == 4 and isinstance(record.settings, dict)):
            raise damaged(file, ValueError(f"a record of {record.benchmark} has no number"))
    return records


def _training_recipe(folder: Path) -> Mapping[str, Any]:
    """Return the recipe of the training that a run is, or evaluated; empty if it is not known."""
    facts = read_facts(folder)
    if facts.get("command") == "train":
        return read_recipe(folder)
    for parent in facts.get("parents", []):
        for start in working_folders(folder):
            if read_facts(start / parent).get("command") == "train":
                return read_recipe(start / parent)
    return {}
