"""Warnings about numbers that are not what they seem, found in the records of a data set."""

from collections.abc import Iterator, Sequence

from dinoforge.records import Record

__all__ = ["find_warnings"]

LOWER_IS_BETTER = {"rmse", "mce"}


def find_warnings(records: Sequence[Record]) -> Iterator[str]:
    """Yield a line for every benchmark whose numbers call for a second look.

    A network that is not above a baseline without one (`settings.baseline`) is a failed fit, by the
    metrics that have intervals: others stand beside those. All networks near chance
    (`settings.chance`) are a sign of wrong labels. Of graphs whose patches are all linked
    (`settings.degenerate`), boxes are arbitrary.
    """
    yield from _degenerate(records)
    for benchmark, metric in dict.fromkeys((r.benchmark, r.metric) for r in records):
        some = [r for r in records if (r.benchmark, r.metric) == (benchmark, metric)]
        networks = [r for r in some if not r.settings.get("baseline")]
        baselines = [r for r in some if r.settings.get("baseline")]
        is_compared = bool(baselines) and not metric.endswith(("_recall", "_decay"))  # beside J, F
        for record in networks:
            is_arbitrary = record.settings.get("degenerate", 0) > record.n / 2
            if is_compared and record.interval is not None and not is_arbitrary:
                yield from _below(record, baselines)
        chance = [r.settings["chance"] for r in networks if "chance" in r.settings]
        if chance and all(_is_near(r, max(chance)) for r in networks):
            yield (
                f"{benchmark}: {metric} of every model is near chance, {max(chance):.4g}: check "
                "the labels"
            )


def _below(record: Record, baselines: Sequence[Record]) -> Iterator[str]:
    sign = -1 if record.metric in LOWER_IS_BETTER else 1
    best = max(baselines, key=lambda r: sign * r.value)
    features = record.settings.get("features")
    name = f"{record.model} ({features})" if features else record.model
    if not sign * record.value > sign * best.value:
        yield (
            f"{record.benchmark}: {record.metric} of {name}, {record.value:.4g}, is no "
            f"better than that of `{best.model}`, {best.value:.4g}: "
            + (_FAILED_FIT if "lr" in record.settings else "the features carry less information")
        )


_FAILED_FIT = (
    "the fit failed, or the features carry less information; try a larger learning rate (1e-2 for "
    "a few hundred steps)"
)


def _degenerate(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        if degenerate := record.settings.get("degenerate", 0):
            share, others = record.settings["share_linked"], ("keys_centered", "tokens")
            kind = record.settings["features"].split(", ")[-1]
            better = " or ".join(other for other in others if other != kind)
            yield (
                f"{record.benchmark}: {record.settings['features']} of {record.model}: on "
                f"{degenerate} of {record.n} images nearly all patches are linked, or none "
                f"(on average a share of {share:.3g} of the pairs), and boxes are arbitrary: "
                f"measure `discovery.features` {better}"
            )
        for video, objects in record.settings.get("vanished", {}).items():
            if record.metric == "J&F" and not record.settings.get("baseline"):
                yield (
                    f"{record.benchmark}: {record.model}: no patch of the first frame of {video} "
                    f"has the objects {', '.join(map(str, objects))}, which are never predicted: "
                    "raise `propagation.side`"
                )


def _is_near(record: Record, chance: float) -> bool:
    """Whether chance is inside the interval, or the value is below it."""
    low = record.interval[0] if record.interval else record.value
    return low <= chance
