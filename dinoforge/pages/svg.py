"""Building blocks of the charts: SVG elements with escaped text, scales, round ticks."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Scale", "element", "round_ticks", "share_bar"]

_BAR_WIDTH, _BAR_HEIGHT = 1000, 14
_HAIRLINE = 3.0


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One SVG (or HTML) element; text and attribute values are escaped.

    Attribute names: a trailing underscore is dropped (``class_``), inner ones become hyphens;
    None leaves the attribute out; floats are written with at most two decimals.
    """
    parts = []
    for key, value in attributes.items():
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"')
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
