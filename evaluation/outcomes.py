"""From who was right on which test image to records: intervals, and differences of two models.

An `Outcome` is a record that still knows its images; two of the same test set can be paired.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.evaluation.headline import headline_k
from dinoforge.intervals import bootstrap_intervals, mcnemar_exact, wilson_interval
from dinoforge.records import Record

__all__ = ["Outcome", "differences", "with_intervals"]

_MAIN = "trained"


@dataclass(frozen=True)
class Outcome:
    """A record without an interval, and its value on every test image."""

    record: Record
    values: NDArray[np.int8]  # [n]: 1 right, 0 wrong; of a difference -1, 0 or 1

    @classmethod
    def of(cls, correct: NDArray[np.bool_], **facts: Any) -> "Outcome":
        """Make the accuracy of a model; ``facts`` are fields of `Record`."""
        values = correct.astype(np.int8)
        record = Record(metric="accuracy", value=float(correct.mean()), n=len(correct), **facts)
        return cls(record, values)

    def setting(self, name: str) -> Any:
        """Return a setting of the record, or None."""
        return self.record.settings.get(name)


def with_intervals(outcomes: Sequence[Outcome], config: BootstrapConfig) -> list[Record]:
    """Give every outcome its 95 % interval; all share the resamples of their test images.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Of the same test images, in the same order.
    config : BootstrapConfig
        Number of resamples and their seed.

    Returns
    -------
    list of Record
        In the order given; accuracies of 0 and 1 get Wilson's interval.
    """
    if not outcomes:
        return []
    table = np.stack([outcome.values for outcome in outcomes], axis=1)
    intervals = bootstrap_intervals(table, resamples=config.resamples, seed=config.seed)
    records = []
    for outcome, drawn in zip(outcomes, intervals, strict=True):
        record = outcome.record
        interval = drawn
        if record.metric == "accuracy" and record.value in {0.0, 1.0}:
            interval = wilson_interval(round(record.value * record.n), record.n)
        records.append(replace(record, interval=interval))
    return records


def differences(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Compare ``trained`` with every other model on the same test images.

    For each protocol and k: the same features of both, or each kind with the only kind of the
    other model. Of k-NN at the headline's k also the best kind of each, if these are not the same.
    """
    found = []
    for benchmark in dict.fromkeys(outcome.record.benchmark for outcome in outcomes):
        mine = [o for o in outcomes if o.record.benchmark == benchmark]
        main = [o for o in mine if o.record.model == _MAIN]
        for model in dict.fromkeys(o.record.model for o in mine if o.record.model != _MAIN):
            others = [o for o in mine if o.record.model == model]
            found += [_difference(a, b) for a, b in _like_pairs(main, others)]
            found += _best_pair(main, others)
    return found


def _like_pairs(
    main: Iterable[Outcome], others: Sequence[Outcome]
) -> Iterator[tuple[Outcome, Outcome]]:
    has_one_kind = len({o.setting("features") for o in others}) == 1
    for a in main:
        for b in others:
            same = has_one_kind or a.setting("features") == b.setting("features")
            if same and a.setting("k") == b.setting("k"):
                yield a, b


def _best_pair(main: Sequence[Outcome], others: Sequence[Outcome]) -> list[Outcome]:
    k = headline_k(o.setting("k") for o in main)
    if k is None:
        return []
    a, b = (_best(group, k) for group in (main, others))
    if a is None or b is None or (a, b) in list(_like_pairs([a], others)):
        return []
    difference = _difference(a, b)
    # The kinds of features were chosen by the very figures that are compared.
    return [replace(difference, record=replace(difference.record, selection="test-peek"))]


def _best(outcomes: Sequence[Outcome], k: int) -> Outcome | None:
    """Pick the largest value, of equals the first: features are in the order of the report."""
    at_k = [o for o in outcomes if o.setting("k") == k]
    return max(at_k, key=lambda o: o.record.value) if at_k else None


def _difference(a: Outcome, b: Outcome) -> Outcome:
    values = a.values - b.values
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    settings = {
        "model_a": a.record.model,
        "model_b": b.record.model,
        "features_a": a.setting("features"),
        "features_b": b.setting("features"),
        "wins": wins,
        "losses": losses,
        "mcnemar_p": mcnemar_exact(wins, losses),
    }
    if a.setting("k") is not None:
        settings["k"] = a.setting("k")
    record = replace(
        a.record,
        model=f"{a.record.model} - {b.record.model}",
        metric="accuracy_difference",
        value=float(values.mean()),
        settings=settings,
    )
    return Outcome(record, values)
