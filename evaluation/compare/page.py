"""One self-contained HTML page of a comparison: tables, plots, curves, provenance."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Curve, Difference, Row
from dinoforge.evaluation.compare.texts import common_k, legend, number_text, unit_text
from dinoforge.evaluation.report.facts import RunFacts, find_evaluations, read_run
from dinoforge.pages.charts import (
    IntervalPlot,
    IntervalRow,
    LineChart,
    Series,
    interval_plot,
    line_chart,
)
from dinoforge.pages.formatting import count, counted
from dinoforge.pages.render import render

__all__ = ["as_page", "read_provenance"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_BETTER, _BASELINE, _MODEL, _UNCLEAR = 0, 1, 2, 5  # colors
_LINES = 6  # of one panel: there are as many colors


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """How the differences of one model came out."""

    model: str
    better: int
    worse: int
    unclear: int
    untested: int


def as_page(
    comparison: Comparison,
    runs: Mapping[str, RunFacts | None] | None = None,
    *,
    title: str = "dinoforge compare",
) -> str:
    """Render a comparison; equal comparisons give equal bytes.

    ``runs`` are facts of the run folders by path, of `read_provenance`: command, commit, host.
    """
    return render(
        "compare.html",
        folder=_TEMPLATES,
        comparison=comparison,
        title=title,
        lead=_lead(comparison),
        legend=legend(comparison),
        tallies=list(_tallies(comparison)),
        score_panels=[_score_panel(comparison, at) for at in range(len(comparison.columns))],
        difference_panels=list(_difference_panels(comparison)),
        curve_panels=list(_curve_panels(comparison)),
        measured=[e for e in _entries(comparison, comparison.cells) if not e[0].is_published],
        published=[e for e in _entries(comparison, comparison.cells) if e[0].is_published],
        differences=list(_entries(comparison, comparison.differences)),
        has_seeds=any(_seeds(cell) for _, _, cell in _entries(comparison, comparison.cells)),
        runs=runs or {},
        number=_number,
        p_text=_p_text,
        unit=unit_text,
        ks=[common_k(comparison, at) for at in range(len(comparison.columns))],
        shown_name=_shown_name,
    )


def read_provenance(comparison: Comparison) -> dict[str, RunFacts | None]:
    """Read ``run.json`` of the runs of a comparison and of their newest evaluations, by path.

    None stands for a run without one, such as a file of records.
    """
    rows = [row for row in comparison.rows if not row.is_published]
    facts: dict[str, RunFacts | None] = {}
    for path in dict.fromkeys(path for row in rows for path in row.sources):
        folder = Path(path).parent if path.endswith(".jsonl") else Path(path)
        folders = [folder, folder / "evaluation"]
        newest = [runs[0] for at in folders for runs in find_evaluations(at).values()]
        runs = [r for r in dict.fromkeys([folders[0], *newest]) if (r / "run.json").is_file()]
        for run in runs:
            facts[str(run)] = read_run(run, "run")
        if not runs:
            facts[path] = None
    return facts


Entry = TypeVar("Entry", Cell, Difference)


def _entries(
    comparison: Comparison, table: Sequence[Sequence[Entry | None]]
) -> Iterator[tuple[Row, Column, Entry]]:
    """Yield what is in a table of cells or differences, row by row."""
    for row, entries in zip(comparison.rows, table, strict=True):
        for column, entry in zip(comparison.columns, entries, strict=True):
            if entry is not None:
                yield row, column, entry


def _lead(comparison: Comparison) -> str:
    models = sum(not row.is_published for row in comparison.rows)
    text = f"{counted(models, 'model')} on {counted(len(comparison.columns), 'benchmark')}"
    if not comparison.tests:
        return f"{text}."
    clear = sum(d.is_clear for _, _, d in _entries(comparison, comparison.differences))
    return (
        f"{text}. {count(clear)} of {counted(comparison.tests, 'tested difference')} from "
        f"{comparison.baseline} {'is' if clear == 1 else 'are'} clear."
    )


def _shown_name(row: Row) -> str:
    """Name a model where it is clear otherwise that its row is published."""
    return row.name.removesuffix(" (published)")


def _scale(column: Column) -> float:
    return 100.0 if column.is_fraction else 1.0


def _number(value: float | None, column: Column, *, sign: bool = False) -> str:
    return number_text(value, column, sign=sign).replace("-", "\N{MINUS SIGN}")


def _p_text(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(cell: Cell) -> list[float]:
    """Return the numbers of single runs behind a mean over several."""
    return [record.value for record in cell.records] if len(cell.records) > 1 else []


def _is_gain(difference: Difference, column: Column) -> bool:
    return (difference.value > 0) == (column.direction != "lower")


def _tallies(comparison: Comparison) -> Iterator[_Tally]:
    for row, differences in zip(comparison.rows, comparison.differences, strict=True):
        columns = zip(differences, comparison.columns, strict=True)
        pairs = [(d, c) for d, c in columns if d is not None and c.direction]
        if not pairs:
            continue
        clear = [_is_gain(d, c) for d, c in pairs if d.is_clear]
        untested = sum(d.p is None for d, _ in pairs)
        yield _Tally(
            model=row.name,
            better=sum(clear),
            worse=len(clear) - sum(clear),
            unclear=len(pairs) - len(clear) - untested,
            untested=untested,
        )


def _score_panel(comparison: Comparison, at: int) -> tuple[str, str]:
    """Return the title of a column and a panel of its models."""
    column = comparison.columns[at]
    rows, levels = [], []
    for row, cells in zip(comparison.rows, comparison.cells, strict=True):
        cell = cells[at]
        if cell is None:
            continue
        rows.append(_score_row(row, cell, column))
        if row.is_baseline and math.isfinite(cell.value):
            levels.append((row.name, _scale(column) * cell.value))
    unit = _with_direction(unit_text(column), column)
    plot = IntervalPlot(title=column.title, unit=unit, rows=rows, levels=levels)
    return column.title, interval_plot(plot)


def _with_direction(unit: str, column: Column) -> str:
    lower = "lower is better" if column.direction == "lower" else ""
    return ", ".join(filter(None, (unit, lower)))


def _score_row(row: Row, cell: Cell, column: Column) -> IntervalRow:
    color = _BASELINE if row.is_baseline else _UNCLEAR if row.is_published else _MODEL
    return IntervalRow(
        label=_shown_name(row),
        value=_scale(column) * cell.value,
        interval=_scaled(cell.interval, column),
        color=_BETTER if cell.is_bold else color,
        dots=[_scale(column) * value for value in _seeds(cell)],
        is_hollow=row.is_published,
    )


def _scaled(interval: tuple[float, float] | None, column: Column) -> tuple[float, float] | None:
    if interval is None:
        return None
    return interval[0] * _scale(column), interval[1] * _scale(column)


def _difference_panels(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """Draw a panel for every model, or if there are more models than benchmarks for each of those.

    Yields the kind of the name (``model`` or ``benchmark``), the name, and the panel. Differences
    of fractions share an axis; those in other units have panels of their own.
    """
    entries = list(_entries(comparison, comparison.differences))
    models = {row.name for row, _, _ in entries}
    kind = "benchmark" if len(models) > len(comparison.columns) else "model"
    panels: dict[tuple[str, str], list[IntervalRow]] = {}
    for row, column, difference in entries:
        unit = "points" if column.is_fraction else unit_text(column) or column.metric
        if kind == "benchmark":
            name, label, unit = column.title, row.name, _with_direction(unit, column)
        else:
            name, label = row.name, column.title + " ↓" * (column.direction == "lower")
        panels.setdefault((name, unit), []).append(_difference_row(label, column, difference))
    axis = _shared_axis(
        [r for (_, unit), rows in panels.items() if unit.startswith("points") for r in rows]
    )
    for (name, unit), rows in panels.items():
        shared = axis if unit.startswith("points") else None
        plot = IntervalPlot(title=name, unit=unit, rows=rows, zero=True, axis=shared)
        yield kind, name, interval_plot(plot)


def _shared_axis(rows: Sequence[IntervalRow]) -> tuple[float, float]:
    values = [0.0, *(v for r in rows for v in (r.value, *(r.interval or ())) if math.isfinite(v))]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _difference_row(label: str, column: Column, difference: Difference) -> IntervalRow:
    color = _UNCLEAR
    if difference.is_clear and column.direction:
        color = _BETTER if _is_gain(difference, column) else _BASELINE
    return IntervalRow(
        label=label,
        value=_scale(column) * difference.value,
        interval=_scaled(difference.interval, column),
        color=color,
        is_hollow=not difference.is_paired,
    )


def _curve_panels(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield the title of a column and a panel of at most six of its lines."""
    for at, column in enumerate(comparison.columns):
        curves = [curve for curve in comparison.curves if curve.column == at]
        for start in range(0, len(curves), _LINES):
            some = curves[start : start + _LINES]
            series = [_series(comparison, curve, column) for curve in some]
            part = f"{unit_text(column)}, models {start + 1} to {start + len(some)}"
            unit = part.lstrip(", ") if len(curves) > _LINES else unit_text(column)
            chart = LineChart(title=column.title, unit=unit, series=series)
            yield column.title, line_chart(chart)


def _series(comparison: Comparison, curve: Curve, column: Column) -> Series:
    """Return a line with its intervals; of seeds, with the mean plus and minus the deviation."""
    scale = _scale(column)
    band: list[tuple[float, float] | None] = []
    for value, interval, deviation in zip(
        curve.values, curve.intervals, curve.deviations, strict=True
    ):
        spread = None if deviation is None else (value - deviation, value + deviation)
        band.append(_scaled(interval or spread, column))
    return Series(
        comparison.rows[curve.row].name,
        [float(step) for step in curve.steps],
        [scale * value for value in curve.values],
        band,
    )
