"""Numbers on a page: grouped digits, percentages, durations. Not for machines."""

import math

__all__ = ["bytes_size", "count", "counted", "duration", "percent", "points", "significant"]

# No line break between a number and its unit.
_GLUE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def count(number: float) -> str:
    """Whole number with its thousands grouped: 12,345."""
    return f"{round(number):,}".replace("-", _MINUS)


def counted(number: int, one: str, many: str = "") -> str:
    """Count with its noun: 1 image, 12 images; ``many`` is the plural if it is not one + s."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Fraction as a percentage; a missing or non-finite value is a dash."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    return f"{100 * fraction:.{digits}f}{_GLUE}%".replace("-", _MINUS)


def points(difference: float | None, digits: int = 1) -> str:
    """Difference of two fractions in percentage points, with its sign."""
    if difference is None or not math.isfinite(difference):
        return "–"
    return f"{100 * difference:+.{digits}f}".replace("-", _MINUS)


def significant(number: float | None, digits: int = 3, *, zeros: bool = False) -> str:
    """Format with ``digits`` significant digits; ``zeros`` keeps trailing ones, for columns."""
    if number is None or not math.isfinite(number):
        return "–"
    if number == 0:
        return "0"
    if 1e-3 <= abs(number) < 10**digits:
        places = max(digits - 1 - math.floor(math.log10(abs(number))), 0)
        text = f"{number:,.{places}f}"
        short = text.rstrip("0").rstrip(".") if "." in text and not zeros else text
        return short.replace("-", _MINUS)
    if abs(number) < 1e7 and abs(number) >= 1:
        return count(number)
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """Time in its two largest units: ``3 min 12 s``."""
    if seconds < 10:
        return f"{seconds:.1f}{_GLUE}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}{_GLUE}h {minutes}{_GLUE}min"
    return f"{minutes}{_GLUE}min {rest}{_GLUE}s" if minutes else f"{rest}{_GLUE}s"


def bytes_size(size: float) -> str:
    """Bytes in the largest binary unit below the size: ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f}{_GLUE}B" if unit == "B" else f"{size:.1f}{_GLUE}{unit}"
        size /= 1024
    return f"{size:.1f}{_GLUE}TiB"
