"""Line charts as inline SVG: axes, legend, values on hover (by the page's script).

One chart is one panel of small multiples, drawn for a width of 340 pixels, so that its text
stays readable on a phone. Not for: interaction beyond reading values.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dinoforge.pages.formatting import significant
from dinoforge.pages.svg import Scale, element, round_ticks

__all__ = ["LineChart", "Series", "line_chart"]

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 8, 24
_NUM_COLORS = 6


@dataclass(frozen=True)
class Series:
    """One line: ``y`` over ``x``, interrupted at non-finite values."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """One panel; ``levels`` are labeled horizontal lines (``ln K``) that the y axis includes."""

    title: str
    series: Sequence[Series]
    unit: str = ""
    x_name: str = "step"
    levels: Sequence[tuple[str, float]] = ()


def line_chart(chart: LineChart) -> Markup:
    """Draw a panel: ``<figure>`` with title, SVG and legend."""
    x_low, x_high = _range([v for s in chart.series for v in s.x])
    # Steps begin near 0: an axis that starts at 10 of 5,000 would look odd.
    x_low = 0.0 if 0 < x_low < 0.1 * x_high else x_low
    levels = [level for _, level in chart.levels]
    values = [v for s in chart.series for v in s.y] + levels
    y_low, y_high = _padded(*_range(values))
    if levels:
        # Room for the label above the line.
        y_high = max(y_high, max(levels) + 0.14 * (max(levels) - y_low))
    x = Scale(x_low, x_high, _LEFT, _WIDTH - _RIGHT)
    y = Scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    drawing = element(
        "svg",
        element("title", _summary(chart)),
        *_axes(x, y),
        *[_level(label, level, y) for label, level in chart.levels],
        *[_line(series, number, x, y) for number, series in enumerate(chart.series)],
        element("line", class_="rule", y1=_TOP, y2=_HEIGHT - _BOTTOM, visibility="hidden"),
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        tabindex=0,
        data_chart=_hover_data(chart, x),
    )
    title = element("b", chart.title)
    unit = element("span", chart.unit, class_="muted") if chart.unit else ""
    return element(
        "figure", element("figcaption", title, " ", unit), drawing, _legend(chart), class_="panel"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _padded(low: float, high: float) -> tuple[float, float]:
    # A constant gets an axis of its own size: a flat line must look flat, not like noise.
    margin = 0.06 * (high - low) if high > low else (abs(high) or 1.0) * 0.5
    padded_low = low - margin
    return (0.0 if low >= 0 > padded_low else padded_low), high + margin


def _axes(x: Scale, y: Scale) -> list[Markup]:
    parts = []
    for value in round_ticks(y.low, y.high, 5):
        at = y(value)
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        label = significant(value, 4)
        parts.append(element("text", label, class_="tick end", x=x.start - 6, y=at + 4))
    for value in round_ticks(x.low, x.high, 4):
        label = significant(value, 4)
        parts.append(element("text", label, class_="tick middle", x=x(value), y=_HEIGHT - 7))
    base = y.start
    parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=base, y2=base))
    return parts


def _level(label: str, value: float, y: Scale) -> Markup:
    at = y(value)
    line = element("line", class_="level", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at)
    text = element("text", label, class_="tick end", x=_WIDTH - _RIGHT, y=at - 5)
    return element("g", line, text)


def _line(series: Series, number: int, x: Scale, y: Scale) -> Markup:
    """Draw finite values: strokes through neighbors, dots for isolated values."""
    color = f"c{number % _NUM_COLORS}"
    strokes, dots = [], []
    for run in _finite_runs(series):
        at = [(x(x_value), y(y_value)) for x_value, y_value in run]
        if len(at) == 1:
            dots.append(element("circle", class_=f"dot {color}", cx=at[0][0], cy=at[0][1], r=3))
        else:
            strokes.append("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in at))
    path = [element("path", class_=f"line {color}", d="".join(strokes))] if strokes else []
    return Markup("").join([*path, *dots])


def _finite_runs(series: Series) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in zip(series.x, series.y, strict=True):
        if math.isfinite(point[1]):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def _legend(chart: LineChart) -> Markup:
    entries = []
    for number, series in enumerate(chart.series):
        finite = [v for v in series.y if math.isfinite(v)]
        span = f"{significant(finite[0])} → {significant(finite[-1])}" if finite else "no values"
        swatch = element(
            "svg",
            element("path", class_=f"line c{number % _NUM_COLORS}", d="M0 5H20"),
            class_="swatch",
            viewBox="0 0 20 10",
            aria_hidden="true",
        )
        name = element("span", series.name)
        value = element("span", span, class_="num", data_span=span)
        entries.append(element("li", swatch, name, value))
    return element("ul", *entries, class_="legend")


def _summary(chart: LineChart) -> str:
    parts = []
    for series in chart.series:
        finite = [v for v in series.y if math.isfinite(v)]
        if finite:
            parts.append(
                f"{series.name} from {significant(finite[0])} to {significant(finite[-1])}"
            )
    levels = [f"{label} is {significant(value)}" for label, value in chart.levels]
    return f"{chart.title} over {chart.x_name}: {'; '.join([*parts, *levels]) or 'no values'}"


def _hover_data(chart: LineChart, x: Scale) -> str:
    """Values for the page's script: pixel and label of every x, texts of every series."""
    positions = sorted({v for series in chart.series for v in series.x})
    rows = []
    for series in chart.series:
        at = dict(zip(series.x, series.y, strict=True))
        rows.append([significant(at.get(v, math.nan), 4) for v in positions])
    data = {
        "x": [round(x(v), 1) for v in positions],
        "label": [f"{chart.x_name} {significant(v, 7)}" for v in positions],
        "y": rows,
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
