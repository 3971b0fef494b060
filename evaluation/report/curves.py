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
_PARTS = "parts/"  # counts of a mixture, which the page has as a table
_GRADIENT = "gradient/"
_CLOCK_TITLES = {
    "images_per_s": "images per second",
    "data_wait_s": "seconds waiting for data",
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
    """Lines that share an axis, and reference levels."""

    title: str
    unit: str
    curves: list[Curve]
    levels: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """All panels of a training; ``clock`` holds those that differ between equal runs."""

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
    """A panel to draw: metrics by key, with the name of each line."""

    title: str
    unit: str
    keys: Mapping[str, str]
    levels: Sequence[tuple[str, str]] = ()  # label, name of a number in `levels`


_PLANS = (
    _Plan("Total loss", "nats", {"loss/total": "total"}),
    _Plan(
        "DINO loss",
        "nats",
        {"loss/dino": "sum", "loss/dino_global": "global crops", "loss/dino_local": "local crops"},
    ),
    _Plan("iBOT loss", "nats", {"loss/ibot": "masked patches"}),
    _Plan("KoLeo loss", "nats", {"loss/koleo": "class tokens"}),
    _Plan("Loss of labeled images", "nats", {"loss/supervised": "SuNCEt"}),
    _Plan(
        "Loss between views",
        "nats",
        {"loss/xent": "cross-entropy", "loss/contrastive": "contrastive"},
    ),
    _Plan("Loss of the mean prediction", "nats", {"loss/me_max": "me-max: minus its entropy"}),
    _Plan(
        "Entropy of predictions",
        "nats",
        {
            "predictions/entropy_of_mean": "of the mean prediction",
            "predictions/mean_entropy": "of one prediction",
        },
        (("ln C", "ln_c"),),
    ),
    _Plan(
        "Teacher entropy",
        "nats",
        {"teacher/entropy_of_mean": "of the mean target", "teacher/mean_entropy": "of one target"},
        (("ln K", "ln_k"),),
    ),
    _Plan(
        "Spread of features",
        "std × √d",
        {"features/std": "unit embeddings"},
        (("uniform on the sphere", "one"),),
    ),
    _Plan("Gradient norm", "before clipping", {_GRADIENT: ""}),
)
_SCHEDULES = (
    _Plan("Learning rate", "", {"schedule/lr": "base", "schedule/last_layer_lr": "last layers"}),
    _Plan("Weight decay", "", {"schedule/weight_decay": "weight decay"}),
    _Plan("Teacher momentum", "", {"schedule/momentum": "EMA momentum"}),
    _Plan("Teacher temperature", "", {"schedule/teacher_temperature": "temperature"}),
)

_OF_TEACHERS = ("schedule/momentum", "schedule/teacher_temperature")


def make_curves(
    folder: Path, *, prototypes: int | None = None, classes: int | None = None
) -> Curves | None:
    """Read the metrics of a training run; None if there are none.

    ``prototypes`` is K of the DINO head: the teacher's entropy is at most ln K. ``classes`` is C of
    a step of PAWS: that of predictions is at most ln C.
    """
    rows = _read(folder / "metrics.jsonl")
    if not rows:
        return None
    keys = sorted({key for row in rows for key in row if not key.startswith(_PARTS)} - {"step"})
    per_point = max(1, math.ceil(len(rows) / _MAX_POINTS))
    numbers = {"ln_k": prototypes, "ln_c": classes}
    levels = {"one": 1.0} | {name: math.log(n) for name, n in numbers.items() if n}
    # Losses with weight 0 are not computed.
    keys = [k for k in keys if not k.startswith("loss/") or any(row.get(k) for row in rows)]
    if not any(key.startswith("teacher/") for key in keys):
        keys = [key for key in keys if key not in _OF_TEACHERS]
    plans = [_with_keys(plan, keys) for plan in _PLANS]
    schedules = [_with_keys(plan, keys) for plan in _SCHEDULES]
    planned = {key for plan in (*plans, *schedules) for key in plan.keys}
    rest = {key: _title(key) for key in keys if key not in planned}
    clock = [_Plan(t, "", {k: "between rows"}) for k, t in rest.items() if k.startswith(_CLOCK)]
    plans += [
        _Plan(title, "", {key: key.split("/")[-1].replace("_", " ")})
        for key, title in rest.items()
        if not key.startswith(_CLOCK)
    ]

    def drawn(plans: Sequence[_Plan]) -> list[CurvePanel]:
        return [
            CurvePanel(
                title=plan.title,
                unit=plan.unit,
                curves=[_curve(key, name, rows, per_point) for key, name in plan.keys.items()],
                levels=[(label, levels[name]) for label, name in plan.levels if name in levels],
            )
            for plan in plans
            if plan.keys
        ]

    return Curves(
        panels=drawn(plans),
        schedules=drawn(schedules),
        clock=drawn(clock),
        rows=len(rows),
        steps=int(rows[-1]["step"]),
        per_point=per_point,
        first=_without_clock(rows[0]),
        last=_without_clock(rows[-1]),
    )


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows in the order of their steps; skips the incomplete last line of a killed run."""
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
    """Keep the metrics that were logged; a gradient norm for every module."""
    if _GRADIENT in plan.keys:
        names = {k: k.removeprefix(_GRADIENT).replace("_", " ") for k in keys if _GRADIENT in k}
    else:
        names = {key: name for key, name in plan.keys.items() if key in keys}
    return _Plan(plan.title, plan.unit, names, plan.levels)


def _title(key: str) -> str:
    name = key.rsplit("/", maxsplit=1)[-1]
    title = _CLOCK_TITLES.get(name, name.replace("_", " "))
    return title[:1].upper() + title[1:]


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
