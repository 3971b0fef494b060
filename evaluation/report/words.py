"""The report's findings in sentences that a person can repeat; no adjectives, only numbers."""

from dinoforge.evaluation.report.funnel import Funnel
from dinoforge.evaluation.scores import FEATURES, Difference, Headline
from dinoforge.pages.formatting import count, percent, points
from dinoforge.records import Record

__all__ = ["difference_text", "feature_name", "interval_text", "lead", "model_name"]

_MODELS = {
    "untrained": "the same network untrained",
    "pixels": "raw pixels",
    "pixels_less_mean": "pixels less the mean of the bank",
}
_SHORT = {"pixels": "raw pixels", "pixels_less_mean": "pixels less mean"}


def lead(funnel: Funnel | None, headline: Headline | None) -> str:
    """One sentence: what went in, what came out, what the features can do."""
    parts = []
    if funnel is not None:
        parts.append(f"{count(funnel.images)} images went in and {count(funnel.kept)} were kept")
    if headline is not None and headline.best:
        parts.append(_scores(headline, curated=funnel is not None))
    if not parts:
        return ""
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _scores(headline: Headline, *, curated: bool) -> str:
    first = headline.best[0]
    if first.model == "trained":
        whose = "a network trained on them" if curated else "the trained network"
    else:
        whose = _MODELS.get(first.model, first.model)
    tested = f" of {count(first.n)} test images" if first.n else " of the test images"
    text = (
        f"with the features of {whose}, the {headline.k} nearest neighbors name the right class "
        f"of {percent(first.value)}{tested}"
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
    more = "more" if value > 0 else "fewer"
    amount = points(abs(value)).lstrip("+")
    return f"{amount} points {more} than {other}"


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
    """Kind of features in words; of a model that gives one kind, called like it, nothing."""
    if features in {"pixels", model}:
        return ""
    return FEATURES.get(features, features.replace("_", " "))
