"""Fill the report's template: facts in, one HTML text out; its sentences hold only numbers."""

import math
from collections.abc import Sequence
from pathlib import Path

from dinoforge.evaluation.report.curves import CurvePanel
from dinoforge.evaluation.report.facts import ReportFacts
from dinoforge.evaluation.report.ledger import Funnel, Ledger
from dinoforge.evaluation.report.maps import FeatureMaps
from dinoforge.evaluation.scores import FEATURES, Difference, Headline, Scores, Table, step_of
from dinoforge.evaluation.stages.guards import find_warnings
from dinoforge.pages.charts import (
    IntervalPlot,
    IntervalRow,
    LineChart,
    Series,
    interval_plot,
    line_chart,
    share_bar,
)
from dinoforge.pages.formatting import counted, percent, points
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import Thumbnail, pixel_map
from dinoforge.records import Record

__all__ = ["difference_text", "feature_name", "interval_text", "lead", "make_page", "model_name"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_COLORS = {"trained": 0, "pixels": 1, "untrained": 5}
# In a sentence, and at the start of a table row.
_MODELS = {
    "untrained": "the same network untrained",
    "pixels": "raw pixels",
    "pixels_less_mean": "pixels minus the mean of the bank",
}
_SHORT = {"pixels": "raw pixels", "pixels_less_mean": "pixels minus mean"}


def make_page(
    facts: ReportFacts, ledger: Ledger | None, maps: FeatureMaps | None, quality: str = ""
) -> str:
    """Render the report; equal facts give equal bytes. ``quality`` links to a curation's page."""

    def picture(image_id: int) -> Thumbnail | None:
        return None if ledger is None else ledger.picture(image_id)

    funnel = facts.curation.funnel if facts.curation is not None else None
    curves = facts.curves
    return render(
        "report.html",
        folder=_TEMPLATES,
        title=facts.title,
        facts=facts,
        lead=lead(funnel, facts.headline),
        model_name=model_name,
        feature_name=feature_name,
        interval_text=interval_text,
        bar=share_bar,
        check_panel=_check_panel(facts),
        picture=picture,
        evidence=lambda a, b: None if ledger is None else ledger.evidence(a, b),
        maps=maps,
        quality=quality,
        pixel_map=pixel_map,
        panels=[_line_panel(panel) for panel in curves.panels] if curves else [],
        schedule_panels=[_line_panel(panel) for panel in curves.schedules] if curves else [],
        clock_panels=[_line_panel(panel) for panel in curves.clock] if curves else [],
        checkpoint_panels=_checkpoint_panels(facts.scores),
        score_panels={table.benchmark: _score_panels(table) for table in facts.scores.tables},
        difference_panels=_difference_panels(facts.scores),
        component_sizes=_component_sizes(facts),
        warnings=list(find_warnings(facts.records)),
        versions=_versions(facts),
    )


def _component_sizes(facts: ReportFacts) -> list[tuple[str, int, int]]:
    """Return sizes of components, how many have them, and images in them; without single images."""
    summary = facts.curation.summary if facts.curation is not None else {}
    sizes = summary.get("duplicates", {}).get("components_of_size", {})
    counts = {int(size): number for size, number in sizes.items()}
    rows = []
    for low, high in (
        (2, 2),
        (3, 3),
        (4, 5),
        (6, 10),
        (11, 100),
        (101, 1000),
        (1001, max(counts, default=0)),
    ):
        inside = [(size, number) for size, number in counts.items() if low <= size <= high]
        if inside:
            label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            rows.append((label, sum(n for _, n in inside), sum(size * n for size, n in inside)))
    return rows


def lead(funnel: Funnel | None, headline: Headline | None) -> str:
    """One sentence: images in, images kept, accuracy of the features."""
    parts = []
    if funnel is not None:
        kept = counted(funnel.kept, "was", "were")
        parts.append(f"{counted(funnel.images, 'image')} went in and {kept} kept")
    if headline is not None and headline.best:
        parts.append(_scores_text(headline, curated=funnel is not None))
    return "; ".join(parts) + "." if parts else ""


def _scores_text(headline: Headline, *, curated: bool) -> str:
    first = headline.best[0]
    network = _MODELS.get(first.model, first.model)
    if first.model == "trained":
        network = "a network trained on them" if curated else "the trained network"
    images = counted(first.n, "test image") if first.n else "the test images"
    text = (
        f"k-NN (k = {headline.k}) on the features of {network} classifies {percent(first.value)} "
        f"of {images} correctly"
    )
    compared = [_compared(difference) for difference in headline.differences]
    if not compared:
        return text
    *others, last = compared
    return f"{text}, {', '.join(others)} and {last}" if others else f"{text}, {last}"


def _compared(difference: Difference) -> str:
    other = _MODELS.get(difference.model_b, difference.model_b)
    value = difference.record.value
    if not difference.is_clear:
        return f"not clearly different from {other} ({difference_text(difference.record)})"
    amount = points(abs(value)).lstrip("+")
    return f"{amount} points {'above' if value > 0 else 'below'} {other}"


def difference_text(record: Record) -> str:
    """Difference of two fractions in points, with its interval."""
    return f"{points(record.value)} points, {interval_text(record, signed=True)}"


def interval_text(record: Record, *, signed: bool = False) -> str:
    """95 % interval of a fraction in percent, or of a difference in points."""
    if record.interval is None:
        return "no interval"
    low, high = record.interval
    if signed:
        return f"95\N{NO-BREAK SPACE}% interval {points(low)} to {points(high)}"
    return f"{percent(low).split()[0]} to {percent(high)}"


def model_name(model: str) -> str:
    """Name of a model at the start of a table row."""
    return _SHORT.get(model, model)


def feature_name(features: str, model: str = "") -> str:
    """Kind of features in words; empty if the model has one kind, of its own name."""
    if features in {"pixels", model}:
        return ""
    return FEATURES.get(features, features.replace("_", " "))


def _check_panel(facts: ReportFacts) -> str:
    """Recall and precision on planted copies over the threshold."""
    check = (facts.curation.summary.get("check") if facts.curation is not None else None) or {}
    curve = check.get("curve") or []
    # One exact copy has no pair at all.
    if not any(p["recall"] is not None and p["precision"] is not None for p in curve):
        return ""
    thresholds = [point["threshold"] for point in curve]
    series = [
        Series(name, thresholds, [math.nan if p[name] is None else p[name] for p in curve])
        for name in ("recall", "precision")
    ]
    return line_chart(
        LineChart(title="Planted copies", series=series, unit="share", x_name="threshold")
    )


def _line_panel(panel: CurvePanel) -> str:
    series = [
        Series(c.name, c.steps, [math.nan if v is None else v for v in c.values])
        for c in panel.curves
    ]
    return line_chart(
        LineChart(title=panel.title, unit=panel.unit, series=series, levels=panel.levels)
    )


def _checkpoint_panels(scores: Scores) -> Sequence[str]:
    """k-NN accuracy over exported steps: one panel per benchmark with more than one step."""
    panels = []
    for benchmark, kinds in scores.checkpoints.items():
        series = [
            Series(
                feature_name(features),
                [float(step_of(record) or 0) for record in by_step],
                [100 * record.value for record in by_step],
            )
            for features, by_step in kinds.items()
        ]
        suffix = f", {benchmark}" if len(scores.checkpoints) > 1 else ""
        title = f"k-NN accuracy, k = {scores.k}{suffix}"
        panels.append(line_chart(LineChart(title=title, unit="%", series=series)))
    return panels


def _score_panels(table: Table) -> Sequence[str]:
    """One panel per column, all with the same axis."""
    records = [cell for row in table.rows for cell in row.cells if cell is not None]
    axis = _axis([100 * v for r in records for v in (r.value, *(r.interval or ()))])
    panels = []
    for at, column in enumerate(table.columns):
        rows = [
            _interval_row(row.model, row.features, cell)
            for row in table.rows
            if (cell := row.cells[at]) is not None
        ]
        title = f"{table.column_name} = {column}" if table.column_name else column
        panels.append(interval_plot(IntervalPlot(title=title, unit="%", rows=rows, axis=axis)))
    return panels


def _difference_panels(scores: Scores) -> Sequence[str]:
    """Draw each benchmark and metric, k-NN at the headline's k; the table holds the others."""
    shown = [d for d in scores.differences if d.model_a == "trained" and d.k in {None, scores.k}]
    keys = dict.fromkeys((d.record.benchmark, d.record.metric, d.k) for d in shown)
    panels = []
    for benchmark, metric, k in keys:
        scale = 100 if metric == "accuracy_difference" else 1
        rows = [
            _interval_row(d.model_b, d.features_a, d.record, scale)
            for d in shown
            if (d.record.benchmark, d.record.metric) == (benchmark, metric)
        ]
        title = "Trained minus …" + (f", k = {k}" if k else "")
        unit = "points" if scale == 100 else metric.removesuffix("_difference").replace("_", " ")
        if len(keys) > 1:
            title = f"{benchmark}: {title[0].lower()}{title[1:]}"
        panels.append(interval_plot(IntervalPlot(title=title, unit=unit, rows=rows, zero=True)))
    return panels


def _interval_row(model: str, features: str, record: Record, scale: float = 100) -> IntervalRow:
    names = [model_name(model), feature_name(features, model)]
    interval = None
    if record.interval is not None:
        interval = (scale * record.interval[0], scale * record.interval[1])
    return IntervalRow(
        label=", ".join(filter(None, names)),
        value=scale * record.value,
        interval=interval,
        color=_COLORS.get(model, 2),
    )


def _axis(values: Sequence[float]) -> tuple[float, float]:
    numbers = [v for v in values if not math.isnan(v)]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = 0.06 * (high - low) or 1.0
    return max(0.0, low - margin), high + margin


def _versions(facts: ReportFacts) -> list[tuple[str, str]]:
    """Versions of all runs; all that occur if runs differ."""
    versions: dict[str, dict[str, None]] = {}
    for run in facts.runs:
        for name, version in run.versions.items():
            versions.setdefault(name, {})[version] = None
    return [(name, ", ".join(used)) for name, used in versions.items()]
