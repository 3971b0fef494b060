"""Fill the report's template: facts in, one HTML text out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinoforge.evaluation.report import words
from dinoforge.evaluation.report.collect import ReportFacts
from dinoforge.evaluation.report.curves import CurvePanel
from dinoforge.evaluation.report.ledger import Ledger
from dinoforge.evaluation.report.pictures import FeatureMaps
from dinoforge.evaluation.scores import Scores, Table
from dinoforge.pages import (
    IntervalPlot,
    IntervalRow,
    LineChart,
    Series,
    Thumbnail,
    interval_plot,
    line_chart,
    render,
    share_bar,
)
from dinoforge.records import Record

__all__ = ["make_page"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_COLORS = {"trained": 0, "pixels": 1, "untrained": 5}
_NAN = float("nan")


def make_page(facts: ReportFacts, ledger: Ledger | None, maps: FeatureMaps | None) -> str:
    """Render the report; equal facts give equal bytes."""

    def picture(image_id: int) -> Thumbnail | None:
        return None if ledger is None else ledger.picture(image_id)

    funnel = facts.curation.funnel if facts.curation is not None else None
    curves = facts.curves
    return render(
        "report.html",
        folder=_TEMPLATES,
        title=facts.title,
        facts=facts,
        lead=words.lead(funnel, facts.headline),
        words=words,
        bar=share_bar,
        check_panel=_check_panel(facts),
        picture=picture,
        maps=maps,
        panels=[_line_panel(panel) for panel in curves.panels] if curves else [],
        schedule_panels=[_line_panel(panel) for panel in curves.schedules] if curves else [],
        clock_panels=[_line_panel(panel) for panel in curves.clock] if curves else [],
        checkpoint_panels=_checkpoint_panels(facts.scores),
        score_panels={table.benchmark: _score_panels(table) for table in facts.scores.tables},
        difference_panel=_difference_panel(facts.scores),
        versions=_versions(facts),
    )


def _check_panel(facts: ReportFacts) -> str:
    """Recall and precision on planted copies over the threshold."""
    check = (facts.curation.summary.get("check") if facts.curation is not None else None) or {}
    curve = check.get("curve") or []
    if not curve:
        return ""
    thresholds = [point["threshold"] for point in curve]
    series = [
        Series(name, thresholds, [_NAN if p[name] is None else p[name] for p in curve])
        for name in ("recall", "precision")
    ]
    return line_chart(
        LineChart(title="Planted copies", series=series, unit="share", x_name="threshold")
    )


def _line_panel(panel: CurvePanel) -> str:
    series = [
        Series(c.name, c.steps, [_NAN if v is None else v for v in c.values]) for c in panel.curves
    ]
    return line_chart(
        LineChart(title=panel.title, unit=panel.unit, series=series, levels=panel.levels)
    )


def _checkpoint_panels(scores: Scores) -> Sequence[str]:
    """k-NN accuracy over saved steps, a panel a benchmark that measured more than one."""
    named = len(scores.checkpoints) > 1
    panels = []
    for benchmark, kinds in scores.checkpoints.items():
        series = [
            Series(
                words.feature_name(features),
                [float(score.step) for score in found],
                [100 * score.record.value for score in found],
            )
            for features, found in kinds.items()
        ]
        title = f"k-NN accuracy, k = {scores.k}" + (f", {benchmark}" if named else "")
        panels.append(line_chart(LineChart(title=title, unit="%", series=series)))
    return panels


def _score_panels(table: Table) -> Sequence[str]:
    """One panel a column, all on one axis."""
    every = [cell for row in table.rows for cell in row.cells if cell is not None]
    axis = _axis([100 * v for r in every for v in (r.value, *(r.interval or ()))])
    panels = []
    for at, column in enumerate(table.columns):
        rows = [
            _interval_row(_row_label(row.model, row.features), cell, row.model)
            for row in table.rows
            if (cell := row.cells[at]) is not None
        ]
        title = f"{table.column_name} = {column}" if table.column_name else column
        panels.append(interval_plot(IntervalPlot(title=title, unit="%", rows=rows, axis=axis)))
    return panels


def _row_label(model: str, features: str) -> str:
    name = words.feature_name(features, model)
    return f"{words.model_name(model)}, {name}" if name else words.model_name(model)


def _interval_row(label: str, record: Record, model: str) -> IntervalRow:
    interval = None
    if record.interval is not None:
        interval = (100 * record.interval[0], 100 * record.interval[1])
    return IntervalRow(
        label=label, value=100 * record.value, interval=interval, color=_COLORS.get(model, 2)
    )


def _difference_panel(scores: Scores) -> str:
    """Differences of the headline's k; the table holds the others."""
    rows = [
        _interval_row(
            _row_label(d.model_b, d.features_a),
            d.record,
            d.model_b,
        )
        for d in scores.differences
        if d.k == scores.k and d.model_a == "trained"
    ]
    if not rows:
        return ""
    title = "Trained minus …" + (f", k = {scores.k}" if scores.k else "")
    return interval_plot(IntervalPlot(title=title, unit="points", rows=rows, zero=True))


def _axis(values: Sequence[float]) -> tuple[float, float]:
    finite = [v for v in values if v == v]  # noqa: PLR0124 - NaN is not equal to itself
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.06 * (high - low) or 1.0
    return max(0.0, low - margin), high + margin


def _versions(facts: ReportFacts) -> list[tuple[str, str]]:
    """Versions of all runs; where runs differ, all that occur."""
    found: dict[str, dict[str, Any]] = {}
    for run in facts.runs:
        for name, version in run.versions.items():
            found.setdefault(name, {})[version] = None
    return [(name, ", ".join(versions)) for name, versions in found.items()]
