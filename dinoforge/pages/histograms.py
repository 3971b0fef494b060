"""Histograms as inline SVG: counts of one number, with lines at limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dinoforge.pages.charts import Scale, element, round_ticks
from dinoforge.pages.formatting import count, significant

__all__ = ["Histogram", "histogram"]

_WIDTH, _HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8.0, 352.0, 38.0, 124.0
_ROWS = (10, 22, 34)  # of the labels of limits, in turn
_HAIRLINE = 1.0  # pixels: a count above zero is seen


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of equally wide ranges of ``[low, high]``; the outer ones hold what is beyond.

    ``limits`` are lines: label and value; ``marked`` counts the part of every range that is drawn
    in another color.
    """

    title: str
    low: float
    high: float
    counts: Sequence[int]
    marked: Sequence[int] = ()
    limits: Sequence[tuple[str, float]] = ()
    unit: str = ""
    is_log: bool = False


def histogram(drawn: Histogram) -> Markup:
    """Draw a panel: ``<figure>`` with title and SVG."""
    x = Scale(drawn.low, drawn.high, _LEFT, _RIGHT)
    y = Scale(0, max(*drawn.counts, 1), _BOTTOM, _TOP)
    width = (_RIGHT - _LEFT) / len(drawn.counts)
    bars = []
    for number, total in enumerate(drawn.counts):
        part = drawn.marked[number] if drawn.marked else 0
        left = _LEFT + number * width
        for kind, low, high in (("left", part, total), ("gone", 0, part)):
            if high > low:
                top = min(y(high), _BOTTOM - _HAIRLINE)
                height = max(y(low) - top, _HAIRLINE)
                size = {"x": left, "y": top, "width": max(width - 0.5, 0.5), "height": height}
                bars.append(element("rect", class_=kind, **size))
    base = element("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM)
    drawing = element(
        "svg",
        element("title", _describe(drawn)),
        *bars,
        base,
        *_ticks(x, is_log=drawn.is_log),
        *_lines(drawn, x),
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    unit = element("span", drawn.unit, class_="muted") if drawn.unit else ""
    caption = element("figcaption", element("b", drawn.title), " ", unit)
    return element("figure", caption, drawing, class_="panel")


def _ticks(x: Scale, *, is_log: bool) -> list[Markup]:
    ticks = round_ticks(x.low, x.high, 5)
    if is_log:  # whole powers, if they are several: 64, 128, 256
        whole = [at for at in ticks if at == round(at)]
        ticks = whole if len(whole) > 1 else ticks
    return [
        element("text", _label(at, is_log=is_log), class_="tick middle", x=x(at), y=_BOTTOM + 16)
        for at in ticks
    ]


def _label(value: float, *, is_log: bool) -> str:
    return significant(2**value if is_log else value, 3)


def _lines(drawn: Histogram, x: Scale) -> list[Markup]:
    parts = []
    for number, (label, value) in enumerate(sorted(drawn.limits, key=lambda limit: limit[1])):
        if drawn.low <= value <= drawn.high:
            at = x(value)
            kind = "tick end" if at > (_LEFT + _RIGHT) / 2 else "tick"
            aside = -4 if kind == "tick end" else 4
            row = _ROWS[number % len(_ROWS)]
            parts.append(element("line", class_="rule", x1=at, x2=at, y1=row - 8, y2=_BOTTOM))
            parts.append(element("text", label, class_=kind, x=at + aside, y=row))
    return parts


def _describe(drawn: Histogram) -> str:
    limits = "".join(f"; {label}" for label, _ in drawn.limits)
    marked = f", {count(sum(drawn.marked))} of them marked" if drawn.marked else ""
    low, high = (_label(value, is_log=drawn.is_log) for value in (drawn.low, drawn.high))
    ends = f"from {low} to {high}"
    return f"{drawn.title}: {count(sum(drawn.counts))} images{marked}, {ends}{limits}"
