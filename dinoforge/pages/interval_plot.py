"""Dots with their intervals on a common axis, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dinoforge.pages.formatting import significant
from dinoforge.pages.svg import Scale, element, round_ticks

__all__ = ["IntervalPlot", "IntervalRow", "interval_plot"]

_WIDTH, _RIGHT, _TOP, _ROW = 340, 14, 4, 21
_LETTER = 6.3  # mean width of a letter of the labels, pixels
_MAX_LETTERS = 29  # of a label: more would leave no room for the dots


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One value with its interval; ``color`` is 0 to 5."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    color: int = 0


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """A panel of rows; ``axis`` fixes the range so that several panels can be compared.

    ``zero`` draws the line of no difference.
    """

    title: str
    rows: Sequence[IntervalRow]
    axis: tuple[float, float] | None = None
    unit: str = ""
    zero: bool = False


def interval_plot(plot: IntervalPlot) -> Markup:
    """Draw the panel: ``<figure>`` with title and SVG. The table beside it holds the numbers."""
    low, high = plot.axis or _range(plot.rows, with_zero=plot.zero)
    height = _TOP + _ROW * len(plot.rows) + 22
    left = 14 + _LETTER * max((len(_fitted(row.label)) for row in plot.rows), default=0)
    x = Scale(low, high, left, _WIDTH - _RIGHT)
    bottom = height - 22
    drawing = element(
        "svg",
        element("title", _summary(plot)),
        *_ticks(x, bottom),
        *_zero_line(x, bottom, show=plot.zero),
        *[_row(row, number, x) for number, row in enumerate(plot.rows)],
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
    )
    unit = element("span", plot.unit, class_="muted") if plot.unit else ""
    caption = element("figcaption", element("b", plot.title), " ", unit)
    return element("figure", caption, drawing, class_="panel")


def _fitted(label: str) -> str:
    """Truncate a long label; the summary of the plot has all of it."""
    return label if len(label) <= _MAX_LETTERS else f"{label[: _MAX_LETTERS - 1]}…"


def _range(rows: Sequence[IntervalRow], *, with_zero: bool) -> tuple[float, float]:
    values = [v for row in rows for v in (row.value, *(row.interval or ())) if math.isfinite(v)]
    if with_zero:
        values.append(0.0)
    if not values:
        return 0.0, 1.0
    margin = 0.05 * (max(values) - min(values)) or 0.05
    return min(values) - margin, max(values) + margin


def _ticks(x: Scale, bottom: float) -> list[Markup]:
    parts = []
    for value in round_ticks(x.low, x.high, 4):
        at = x(value)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=bottom))
        label = significant(value, 4)
        parts.append(element("text", label, class_="tick middle", x=at, y=bottom + 16))
    return parts


def _zero_line(x: Scale, bottom: float, *, show: bool) -> list[Markup]:
    return [element("line", class_="axis", x1=x(0), x2=x(0), y1=_TOP, y2=bottom)] if show else []


def _row(row: IntervalRow, number: int, x: Scale) -> Markup:
    at = _TOP + _ROW * (number + 0.5)
    parts = [element("text", _fitted(row.label), class_="label end", x=x.start - 10, y=at + 4)]
    color = f"c{row.color}"
    if row.interval is not None and all(map(math.isfinite, row.interval)):
        low, high = (x(bound) for bound in row.interval)
        parts.append(element("line", class_=f"line {color}", x1=low, x2=high, y1=at, y2=at))
    if math.isfinite(row.value):
        parts.append(element("circle", class_=f"dot {color}", cx=x(row.value), cy=at, r=4))
    return element("g", *parts)


def _summary(plot: IntervalPlot) -> str:
    rows = []
    for row in plot.rows:
        text = f"{row.label} {significant(row.value)}"
        if row.interval is not None:
            text += f" ({significant(row.interval[0])} to {significant(row.interval[1])})"
        rows.append(text)
    return f"{plot.title}: {'; '.join(rows)}"
