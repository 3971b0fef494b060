"""Training curves from ``metrics.jsonl``: panels of lines, thinned to what a page can show."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Curve", "CurvePanel", "Curves", "make_curves"]

_MAX_POINTS = 120
_CLOCK = "clock/"
_CLOCK_TITLES = {
    "images_per_s": "images per second",
    "data_wait_s": "seconds waited for data",
    "wall_s": "seconds",
    "cpu_s": "CPU seconds",
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: means of ``y`` over groups of ``per_point`` rows of the metrics."""

    name: str
    steps: list[float]
    values: list[float | None]  # None: not finite


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """Lines that share an axis, and levels to compare them with."""

    title: str
    unit: str
    curves: list[Curve]
    levels: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """All panels of a training; ``clock`` holds those that no two runs share."""

    panels: list[CurvePanel]
    schedules: list[CurvePanel]
    clock: list[CurvePanel]
    rows: int
    steps: int  # last step logged
    per_point: int  # rows averaged in one point
    first: dict[str, float]
    last: dict[str, float]


@dataclass(frozen=True)
class _Plan:
    """A panel to be: metrics by key, with the name of each line."""

    title: str
    unit: str
    keys: Mapping[str, str]
    levels: Sequence[tuple[str, str]] = ()  # label, name of a number in `_levels`


_PLANS = (
    _Plan("Total loss", "nats", {"loss/total": "total"}),
    _Plan(
        "DINO loss",
        "nats",
        {"loss/dino": "sum", "loss/dino_global": "global crops", "loss/dino_local": "local crops"},
    ),
    _Plan("iBOT loss", "nats", {"loss/ibot": "masked patches"}),
    _Plan("KoLeo loss", "nats", {"loss/koleo": "class tokens"}),
    _Plan(
        "Teacher entropy",
        "nats",
        {"teacher/entropy_of_mean": "of the mean target", "teacher/mean_entropy": "of one target"},
        (("ln K", "ln_k"),),
    ),
    _Plan(
        "Spread of features",
        "std × √d",
        {"features/std": "unit class tokens"},
        (("evenly spread", "one"),),
    ),
    _Plan("Gradient norm", "before clipping", {}),
)
_SCHEDULES = (
    _Plan(
        "Learning rate",
        "",
        {"schedule/lr": "base", "schedule/last_layer_lr": "last layer of heads"},
    ),
    _Plan("Weight decay", "", {"schedule/weight_decay": "weight decay"}),
    _Plan("Teacher momentum", "", {"schedule/momentum": "share kept at a step"}),
    _Plan("Teacher temperature", "", {"schedule/teacher_temperature": "temperature"}),
)
_GRADIENT = "gradient/"


def make_curves(folder: Path, *, prototypes: int | None = None) -> Curves | None:
    """Read the metrics of a training run; None when there are none.

    Parameters
    ----------
    folder : Path
        The run folder.
    prototypes : int, optional
        K of the DINO head: the teacher's entropy is at most ln K.
    """
    rows = _read(folder / "metrics.jsonl")
    if not rows:
        return None
    keys = sorted({key for row in rows for key in row} - {"step"})
    per_point = max(1, math.ceil(len(rows) / _MAX_POINTS))
    levels = {"one": 1.0} | ({"ln_k": math.log(prototypes)} if prototypes else {})
    plans = [_with_keys(plan, keys) for plan in _PLANS]
    schedules = [_with_keys(plan, keys) for plan in _SCHEDULES]
    taken = {key for plan in (*plans, *schedules) for key in plan.keys}
    rest = [key for key in keys if key not in taken and not key.startswith(_CLOCK)]
    plans += [_Plan(_title(key), "", {key: key.split("/")[-1].replace("_", " ")}) for key in rest]
    clock = [
        _panel(_Plan(_title(key), "", {key: "between rows"}), rows, per_point, {})
        for key in keys
        if key.startswith(_CLOCK)
    ]
    return Curves(
        panels=[_panel(plan, rows, per_point, levels) for plan in plans if plan.keys],
        schedules=[_panel(plan, rows, per_point, levels) for plan in schedules if plan.keys],
        clock=clock,
        rows=len(rows),
        steps=int(rows[-1]["step"]),
        per_point=per_point,
        first=_without_clock(rows[0]),
        last=_without_clock(rows[-1]),
    )


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows in the order of their steps; half a line at the end of a killed run is skipped."""
    if not path.is_file():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return [rows[step] for step in sorted(rows)]


def _with_keys(plan: _Plan, keys: Sequence[str]) -> _Plan:
    if plan.title == "Gradient norm":
        named = {k: k.removeprefix(_GRADIENT).replace("_", " ") for k in keys if _GRADIENT in k}
    else:
        named = {key: name for key, name in plan.keys.items() if key in keys}
    return _Plan(plan.title, plan.unit, named, plan.levels)


def _title(key: str) -> str:
    words = key.rsplit("/", maxsplit=1)[-1]
    words = _CLOCK_TITLES.get(words, words.replace("_", " "))
    return words[:1].upper() + words[1:]


def _panel(
    plan: _Plan, rows: Sequence[dict[str, Any]], per_point: int, levels: Mapping[str, float]
) -> CurvePanel:
    return CurvePanel(
        title=plan.title,
        unit=plan.unit,
        curves=[_curve(key, name, rows, per_point) for key, name in plan.keys.items()],
        levels=[(label, levels[name]) for label, name in plan.levels if name in levels],
    )


def _curve(key: str, name: str, rows: Sequence[dict[str, Any]], per_point: int) -> Curve:
    steps, values = [], []
    for start in range(0, len(rows), per_point):
        group = [row for row in rows[start : start + per_point] if row.get(key) is not None]
        if not group:
            continue
        mean = float(np.mean([row[key] for row in group]))
        steps.append(float(group[-1]["step"]))
        values.append(float(f"{mean:.6g}") if math.isfinite(mean) else None)
    return Curve(name=name, steps=steps, values=values)


def _without_clock(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(f"{value:.6g}")
        for key, value in sorted(row.items())
        if key != "step" and not key.startswith(_CLOCK) and math.isfinite(value)
    }
