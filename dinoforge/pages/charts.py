"""Charts as inline SVG: lines (the page's script shows values on hover), intervals, bars.

A chart is one panel of small multiples, drawn for a width of 340 pixels, so that its text stays
readable on a phone. Not for: interaction beyond reading values.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup, escape

from dinoforge.pages.formatting import significant

__all__ = [
    "IntervalPlot",
    "IntervalRow",
    "LineChart",
    "Scale",
    "Series",
    "element",
    "interval_plot",
    "line_chart",
    "round_ticks",
    "share_bar",
]

_WIDTH = 340  # of a panel, pixels
# The area of a line chart.
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 190, 46, 324, 8, 166
_NUM_COLORS = 6

# An interval plot: right end of the axis, top, height of a row and below the rows.
_PLOT_RIGHT, _PLOT_TOP, _ROW, _PLOT_BOTTOM = 326, 4, 21, 22
_LETTER = 6.3  # mean width of a letter of the labels, pixels
_MAX_LETTERS = 29  # of a label: more would leave no room for the dots

_BAR_WIDTH, _BAR_HEIGHT = 1000, 14
_HAIRLINE = 3.0


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One SVG (or HTML) element; text and attribute values are escaped.

    Attribute names: a trailing underscore is dropped (``class_``), inner ones become hyphens;
    None leaves the attribute out; floats are written with at most two decimals.
    """
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(parts)}>{inner}</{name}>")  # noqa: S704 - escaped above


def _text(value: object) -> object:
    if isinstance(value, float):
        text = f"{value:.2f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return value


@dataclass(frozen=True)
class Scale:
    """Linear map of ``[low, high]`` in data units to ``[start, end]`` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value; an empty range maps everything to the middle."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside ``[low, high]``, near ``about`` of them.

    An empty range returns its one value.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else [0.0]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded to the step's own decimals: 3 * 0.1 must print as 0.3.
    places = max(0, -math.floor(math.log10(step)))
    return [round(i * step, places) + 0.0 for i in range(first, last + 1)]


def _panel(title: str, unit: str, *content: Markup) -> Markup:
    """Put a drawing under its title."""
    shown_unit = element("span", unit, class_="muted") if unit else ""
    caption = element("figcaption", element("b", title), " ", shown_unit)
    return element("figure", caption, *content, class_="panel")


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


@dataclass(frozen=True)
class Series:
    """One line: ``y`` over ``x``, interrupted at non-finite values; ``band`` is shaded."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[tuple[float, float] | None] = ()  # low and high at every x; empty: none


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
    values = [v for s in chart.series for v in (*s.y, *_bounds(s))] + levels
    y_low, y_high = _padded(*_range(values))
    if levels:
        # Room for the label above the line.
        y_high = max(y_high, max(levels) + 0.14 * (max(levels) - y_low))
    x, y = Scale(x_low, x_high, _LEFT, _RIGHT), Scale(y_low, y_high, _BOTTOM, _TOP)
    drawing = element(
        "svg",
        element("title", _describe_lines(chart)),
        *_axes(x, y),
        *[_level(label, level, y) for label, level in chart.levels],
        *[_line(series, number, x, y) for number, series in enumerate(chart.series)],
        element("line", class_="rule", y1=_TOP, y2=_BOTTOM, visibility="hidden"),
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        tabindex=0,
        data_chart=_hover_data(chart, x),
    )
    return _panel(chart.title, chart.unit, drawing, _legend(chart))


def _bounds(series: Series) -> list[float]:
    return [bound for interval in series.band if interval is not None for bound in interval]


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = _finite(values)
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
    line = element("line", class_="level", x1=_LEFT, x2=_RIGHT, y1=at, y2=at)
    text = element("text", label, class_="tick end", x=_RIGHT, y=at - 5)
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
    return Markup("").join([*_band(series, color, x, y), *path, *dots])


def _band(series: Series, color: str, x: Scale, y: Scale) -> list[Markup]:
    if not any(series.band):
        return []
    nothing = (math.nan, math.nan)
    ends = [b if b and all(map(math.isfinite, b)) else nothing for b in series.band]
    lows, highs = (_finite_runs(replace(series, y=side)) for side in zip(*ends, strict=True))
    outlines = []
    for low, high in zip(lows, highs, strict=True):
        around = [(x(at), y(value)) for at, value in (*low, *reversed(high))]
        outlines.append("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in around) + "Z")
    return [element("path", class_=f"band {color}", d="".join(outlines))]


def _finite_runs(series: Series) -> list[list[tuple[float, float]]]:
    points = zip(series.x, series.y, strict=True)
    groups = groupby(points, key=lambda point: math.isfinite(point[1]))
    return [list(run) for is_finite, run in groups if is_finite]


def _legend(chart: LineChart) -> Markup:
    entries = []
    for number, series in enumerate(chart.series):
        finite = _finite(series.y)
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


def _describe_lines(chart: LineChart) -> str:
    parts = [
        f"{series.name} from {significant(finite[0])} to {significant(finite[-1])}"
        for series in chart.series
        if (finite := _finite(series.y))
    ]
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


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One value with its interval, and small dots such as single seeds; ``color`` is 0 to 5."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    color: int = 0
    dots: Sequence[float] = ()
    is_hollow: bool = False  # a ring instead of a disk


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """A panel of rows; ``axis`` fixes the range so that several panels can be compared.

    ``zero`` draws the line of no difference; ``levels`` are dashed lines, such as a baseline.
    """

    title: str
    rows: Sequence[IntervalRow]
    axis: tuple[float, float] | None = None
    unit: str = ""
    zero: bool = False
    levels: Sequence[tuple[str, float]] = ()


def interval_plot(plot: IntervalPlot) -> Markup:
    """Draw the panel: ``<figure>`` with title and SVG. The table beside it holds the numbers."""
    low, high = plot.axis or _axis_range(plot)
    bottom = _PLOT_TOP + _ROW * len(plot.rows)
    left = 14 + _LETTER * max((len(_fitted(row.label)) for row in plot.rows), default=0)
    x = Scale(low, high, left, _PLOT_RIGHT)
    drawing = element(
        "svg",
        element("title", _describe_rows(plot)),
        *_vertical_lines(plot, x, bottom),
        *[_row(row, number, x) for number, row in enumerate(plot.rows)],
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {bottom + _PLOT_BOTTOM}",
        role="img",
    )
    return _panel(plot.title, plot.unit, drawing)


def _fitted(label: str) -> str:
    """Leave out the middle of a long label: names of runs differ at their ends, too."""
    if len(label) <= _MAX_LETTERS:
        return label
    half = (_MAX_LETTERS - 1) // 2
    return f"{label[:half].rstrip()}…{label[-half:].lstrip()}"


def _axis_range(plot: IntervalPlot) -> tuple[float, float]:
    values = _finite(v for r in plot.rows for v in (r.value, *(r.interval or ()), *r.dots))
    values += [level for _, level in plot.levels] + ([0.0] if plot.zero else [])
    if not values:
        return 0.0, 1.0
    margin = 0.05 * (max(values) - min(values)) or 0.05
    return min(values) - margin, max(values) + margin


def _vertical_lines(plot: IntervalPlot, x: Scale, bottom: float) -> list[Markup]:
    parts = []
    for value in round_ticks(x.low, x.high, 4):
        at = x(value)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_PLOT_TOP, y2=bottom))
        label = significant(value, 4)
        parts.append(element("text", label, class_="tick middle", x=at, y=bottom + 16))
    lines = [("axis", 0.0)] if plot.zero else []
    for kind, value in [*lines, *(("level", level) for _, level in plot.levels)]:
        at = x(value)
        parts.append(element("line", class_=kind, x1=at, x2=at, y1=_PLOT_TOP, y2=bottom))
    return parts


def _row(row: IntervalRow, number: int, x: Scale) -> Markup:
    at = _PLOT_TOP + _ROW * (number + 0.5)
    parts = [element("text", _fitted(row.label), class_="label end", x=x.start - 10, y=at + 4)]
    color = f"c{row.color}"
    if row.interval is not None and all(map(math.isfinite, row.interval)):
        low, high = (x(bound) for bound in row.interval)
        parts.append(element("line", class_=f"line {color}", x1=low, x2=high, y1=at, y2=at))
    if math.isfinite(row.value):
        kind = "ring" if row.is_hollow else "dot"
        parts.append(element("circle", class_=f"{kind} {color}", cx=x(row.value), cy=at, r=4))
    seeds = map(x, _finite(row.dots))
    parts += [element("circle", class_="seed", cx=at_x, cy=at, r=1.7) for at_x in seeds]
    return element("g", element("title", _describe_row(row)), *parts)


def _describe_row(row: IntervalRow) -> str:
    interval = f" ({' to '.join(map(significant, row.interval))})" if row.interval else ""
    return f"{row.label} {significant(row.value)}{interval}"


def _describe_rows(plot: IntervalPlot) -> str:
    levels = [f"{label} is {significant(value)}" for label, value in plot.levels]
    return f"{plot.title}: {'; '.join([*map(_describe_row, plot.rows), *levels])}"


def share_bar(left: int, gone: int, total: int) -> Markup:
    """Draw ``left`` and, after it, ``gone`` as shares of ``total``; hidden from screen readers.

    A count above zero is at least a hairline wide.
    """
    left_width, gone_width = _share(left, total), _share(gone, total)
    left_width = min(left_width, _BAR_WIDTH - min(gone_width, _HAIRLINE))
    gone_width = min(gone_width, _BAR_WIDTH - left_width)
    return element(
        "svg",
        element("rect", class_="left", x=0, y=0, width=left_width, height=_BAR_HEIGHT),
        element("rect", class_="gone", x=left_width, y=0, width=gone_width, height=_BAR_HEIGHT),
        viewBox=f"0 0 {_BAR_WIDTH} {_BAR_HEIGHT}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _share(count: int, total: int) -> float:
    return max(_BAR_WIDTH * count / total, _HAIRLINE) if total > 0 and count > 0 else 0.0
