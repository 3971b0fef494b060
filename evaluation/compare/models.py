"""Which runs are one model: seeds of a training, the same checkpoint, baselines measured again."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from dinoforge.config.load import flatten
from dinoforge.evaluation.compare.sources import TRAINED, Measurement, Run

__all__ = ["Member", "ModelRuns", "find_models"]

Key = tuple[str, str, str, int | None]  # of a `Measurement`


@dataclass
class Member:
    """One trained network, or one baseline: its numbers in one or several runs."""

    runs: list[str]
    newest: dict[Key, Measurement] = field(default_factory=dict)
    steps: dict[Key, dict[int, Measurement]] = field(default_factory=dict)  # all of them

    def agrees_with(self, other: "Member") -> bool:
        """Whether both have numbers of the same kind, all of them equal."""
        shared = self.newest.keys() & other.newest.keys()
        pairs = [(self.newest[key].record, other.newest[key].record) for key in shared]
        return bool(pairs) and all(a.value == b.value and a.data == b.data for a, b in pairs)

    def at_steps(self, newest: Measurement, *, is_own_choice: bool) -> dict[int, Measurement]:
        """Return a number at all steps, of the same features and k.

        If it chose its features itself, as the linear grid does, others at other steps are the
        same number.
        """
        exact = self.steps.get(newest.key, {})
        if not is_own_choice:
            return exact
        benchmark, metric, _, k = newest.key
        by_step: dict[int, list[Measurement]] = {}
        for key, of_key in self.steps.items():
            if (*key[:2], key[3]) == (benchmark, metric, k):
                for step, m in of_key.items():
                    by_step.setdefault(step, []).append(m)
        return {step: some[0] for step, some in by_step.items() if len(some) == 1} | exact

    def add(self, other: "Member") -> None:
        """Take over the numbers that are missing here."""
        self.runs = list(dict.fromkeys([*self.runs, *other.runs]))
        self.newest = other.newest | self.newest
        self.steps = other.steps | self.steps


@dataclass
class ModelRuns:
    """One row of a comparison: a model; several members are seeds of it."""

    name: str
    members: list[Member]
    sources: list[str]
    is_trained: bool

    @property
    def runs(self) -> list[str]:
        """Names of the runs of all members."""
        return list(dict.fromkeys(run for member in self.members for run in member.runs))


def find_models(
    runs: Sequence[Run], free_keys: Sequence[str], note: Callable[[str], None]
) -> list[ModelRuns]:
    """Gather runs into models, those that were trained first, in the order of the runs.

    ``free_keys`` are the keys of a training's recipe in which seeds of a model may differ: ``seed``
    and those that do not change results. ``note`` is called with what was folded, one line each.
    """
    trained: list[ModelRuns] = []
    others: list[ModelRuns] = []
    for group in _groups(runs, free_keys):
        name, sources = _name(group), [str(run.path) for run in group]
        members = _members(group, TRAINED, name, note)
        if len(members) > 1:
            of = "runs of this name" if group[0].is_named else "trainings that differ in their seed"
            folded = ", ".join(str(run.path) if run.is_named else run.name for run in group)
            note(f"{name}: mean over {len(members)} {of}: {folded}")
        elif len(group) > 1 and members:
            folded = ", ".join(str(run.path) for run in group)
            note(f"{name}: one row, as its checkpoint is the same in {folded}")
        if members:
            trained.append(ModelRuns(name, members, sources, is_trained=True))
        models = dict.fromkeys(m.record.model for run in group for m in run.measurements)
        for model in models:
            if model != TRAINED:
                of_group = _members(group, model, model, note)
                others.append(ModelRuns(model, of_group, sources, is_trained=False))
    return _with_unique_names(trained + _merged(others, note))


def _groups(runs: Sequence[Run], free_keys: Sequence[str]) -> list[list[Run]]:
    """Gather runs of the same name; without names, seeds of a recipe, and equal checkpoints."""
    groups: dict[str, list[Run]] = {}
    for number, run in enumerate(runs):
        key = f"run {number}"
        if run.is_named:
            key = f"name {run.name}"
        elif run.recipe:
            key = f"recipe {_without(run.recipe, free_keys)}"
        elif run.checkpoint:
            key = f"checkpoint {run.checkpoint}"
        groups.setdefault(key, []).append(run)
    return [part for key, group in groups.items() for part in _without_versions(key, group)]


def _without_versions(key: str, group: list[Run]) -> list[list[Run]]:
    """Split runs of one recipe that hold several checkpoints of one seed: no seeds of a model."""
    if not key.startswith("recipe"):
        return [group]
    checkpoints: dict[Any, set[str]] = {}
    for run in group:
        checkpoints.setdefault(run.recipe.get("seed"), set()).add(run.checkpoint)
    if all(len(some - {""}) <= 1 for some in checkpoints.values()):
        return [group]
    by_checkpoint: dict[str, list[Run]] = {}
    for number, run in enumerate(group):
        by_checkpoint.setdefault(run.checkpoint or f"run {number}", []).append(run)
    return list(by_checkpoint.values())


def _without(recipe: Mapping[str, Any], free_keys: Sequence[str]) -> str:
    """Write a recipe as text, without keys and sections."""
    free = tuple(f"{key}." for key in free_keys)
    kept = {key: value for key, value in flatten(recipe) if not f"{key}.".startswith(free)}
    return json.dumps(kept, sort_keys=True)


def _name(group: Sequence[Run]) -> str:
    """Name of the first run; of several what their names begin with: seed0, seed1 -> seed."""
    names = list(dict.fromkeys(run.name for run in group))
    letters = takewhile(lambda some: len(set(some)) == 1, zip(*names, strict=False))
    shared = "".join(some[0] for some in letters).rstrip("-_/. ")
    return shared or names[0]


def _members(
    group: Sequence[Run], model: str, name: str, note: Callable[[str], None]
) -> list[Member]:
    """Gather what the runs of a group measured of one model; equal numbers are one member."""
    members: dict[str, Member] = {}
    for number, run in enumerate(group):
        some = [m for m in run.measurements if m.record.model == model]
        if not some:
            continue
        newest = max(some, key=lambda m: m.step or 0)
        member = members.setdefault(newest.record.checkpoint or f"run {number}", Member([run.name]))
        _add(member, Member([run.name], *_by_step(some)), name, note)
    # Two trainings may have equal numbers on few images.
    return list(members.values()) if model == TRAINED else _distinct(members.values())


def _distinct(members: Iterable[Member]) -> list[Member]:
    distinct: list[Member] = []
    for member in members:
        same = next((one for one in distinct if one.agrees_with(member)), None)
        if same is None:
            distinct.append(member)
        else:
            same.add(member)
    return distinct


def _add(member: Member, other: Member, name: str, note: Callable[[str], None]) -> None:
    for key in member.newest.keys() & other.newest.keys():
        a, b = member.newest[key], other.newest[key]
        if a.record.value != b.record.value:
            values = f"{a.record.value:.6g} ({a.run}) and {b.record.value:.6g} ({b.run})"
            note(
                f"{name}: {' '.join(filter(None, key[:3]))} of one checkpoint was measured twice, "
                f"{values}: the first is shown; give the runs names of their own to see both"
            )
    member.add(other)


def _by_step(
    measurements: Iterable[Measurement],
) -> tuple[dict[Key, Measurement], dict[Key, dict[int, Measurement]]]:
    newest: dict[Key, Measurement] = {}
    steps: dict[Key, dict[int, Measurement]] = {}
    last: dict[str, int] = {}  # a benchmark's newest step
    for m in measurements:
        if (step := m.step) is not None:
            steps.setdefault(m.key, {}).setdefault(step, m)
            last[m.record.benchmark] = max(step, last.get(m.record.benchmark, step))
    for m in measurements:
        if m.step in {None, last.get(m.record.benchmark)}:
            newest.setdefault(m.key, m)
    return newest, steps


def _merged(models: Sequence[ModelRuns], note: Callable[[str], None]) -> list[ModelRuns]:
    """Make one row of baselines of the same name whose numbers are equal."""
    merged: list[ModelRuns] = []
    for model in models:
        same = next((one for one in merged if _is_same(one, model)), None)
        if same is None:
            merged.append(model)
            continue
        same.members[0].add(model.members[0])
        same.sources = list(dict.fromkeys([*same.sources, *model.sources]))
    for one in merged:
        if len(one.members) > 1:
            note(f"{one.name}: mean over {len(one.members)} of {', '.join(one.runs)}")
        elif len(one.runs) > 1:
            note(f"{one.name}: one row, as its numbers are equal in {', '.join(one.runs)}")
    return merged


def _is_same(a: ModelRuns, b: ModelRuns) -> bool:
    if a.name != b.name or len(a.members) > 1 or len(b.members) > 1:
        return False
    one, other = a.members[0], b.members[0]
    if one.newest.keys() & other.newest.keys():
        return one.agrees_with(other)
    return bool(_checkpoints(one) & _checkpoints(other))


def _checkpoints(member: Member) -> set[str]:
    return {m.record.checkpoint for m in member.newest.values()} - {""}


def _with_unique_names(models: Sequence[ModelRuns]) -> list[ModelRuns]:
    """Give rows of equal names their runs in brackets."""
    names = [model.name for model in models]
    for model in models:
        if names.count(model.name) > 1:
            model.name = f"{model.name} [{', '.join(model.runs)}]"
    return list(models)
