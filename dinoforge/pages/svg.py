"""Building blocks of the charts: SVG elements with escaped text, scales, round ticks."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Scale", "element", "round_ticks"]


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
