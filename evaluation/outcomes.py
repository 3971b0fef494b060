"""What a protocol measures, unit by unit, and the records made of it.

`Measured` is one model with its features. An `Outcome` is a record together with its value on
every unit that is resampled (a test image, a query, a sequence), so that two outcomes on the same
units can be compared in pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import resample
from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.layouts.classified import Grading
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.scores import headline_k, k_and_bank
from dinoforge.intervals import (
    bootstrap_intervals,
    mcnemar_exact,
    percentile_interval,
    unanimous_interval,
    wilson_interval,
)
from dinoforge.records import Record

__all__ = ["Measured", "Outcome", "Subject", "with_intervals"]

_MAIN = "trained"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a model on a data set."""

    data: str  # name of the data set
    model: Model
    device: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # settings of every record

    def record(
        self,
        protocol: str,
        metric: str,
        value: float,
        n: int,
        *,
        selection: str = "none",
        **settings: Any,
    ) -> Record:
        """Make a record; its settings get the training step of an exported backbone."""
        settings = {**settings, **self.facts}
        if self.model.step is not None:
            settings["step"] = self.model.step
        return Record(
            benchmark=f"{protocol}/{self.data}",
            model=self.model.name,
            metric=metric,
            value=value,
            n=n,
            settings=settings,
            selection=selection,
            checkpoint=self.model.checkpoint,
        )

    def of(self, name: str) -> "Subject":
        """Return another subject for a baseline without a network, under its own name."""
        return replace(self, model=replace(self.model, name=name))


@dataclass(frozen=True, kw_only=True)
class Measured(Subject):
    """One model with its features of the bank and of the test images."""

    bank: Rows
    test: Rows
    gradings: Sequence[Grading] = ()  # without any, nothing about classes is known
    # name of a grading -> unit of every image of the data set, shared by outcomes
    units: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    leave_one_out: bool = False
    num_val: int = 0  # rows at the end of the bank on which choices are made; 0: a share of it
    subsets: Sequence[NDArray[np.int64]] = ()  # few images of the bank, instead of draws of them

    views: Sequence[Rows] = ()  # augmented views of the bank
    targets: NDArray[np.int8] | None = None  # several labels of each image of the bank, [n, K]

    def labeled(self) -> "Measured":
        """Keep the images of the bank whose class is known; gradings name those of the test."""
        return replace(self, bank=self.bank.labeled())


@dataclass(frozen=True)
class Outcome:
    """A record without an interval, and its values on every unit (image, video, query)."""

    record: Record
    # [U, ...], a row per unit. Of accuracies int8 1 right, 0 wrong, of their differences -1, 0
    # or 1; float64 means of several tries. Empty: a number without an interval.
    values: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int8))
    rule: str = "mean"  # how values of units become the number, one of `combining.RULES`
    # the unit of every image of the data set, -1: of none; equal for outcomes that are compared;
    # empty: those of the stage
    units: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def setting(self, name: str) -> Any:
        """Return a setting of the record, or None."""
        return self.record.settings.get(name)


def with_intervals(
    outcomes: Sequence[Outcome], config: BootstrapConfig, unpaired: Sequence[Outcome] = ()
) -> list[Record]:
    """Give outcomes and their paired differences 95 % intervals: differences, then ``unpaired``.

    Outcomes on the same units share their resamples. Means are bootstrapped, or get an interval by
    formula if all values are equal; other rules are bootstrapped with fewer resamples.
    """
    pairs = _pairs(outcomes)
    of_means = [_difference(*pair) for pair in pairs if pair[0].rule == "mean"]
    of_means += unpaired
    means = [o for o in outcomes if o.rule == "mean"]
    done = _of_means([*means, *of_means], config)
    records = {id(o): record for o, record in zip(means, done, strict=False)}
    resampled: dict[int, NDArray[np.float64]] = {}
    for o in outcomes:
        if o.rule != "mean":
            drawn = resample(o.rule, o.values, resamples=config.pooled_resamples, seed=config.seed)
            resampled[id(o)] = drawn
            records[id(o)] = _pooled(o.record, drawn)
    pooled = [
        _pooled(
            replace(
                _between(a, b, selection),
                value=a.record.value - b.record.value,
                settings=_compared(a, b),
            ),
            resampled[id(a)] - resampled[id(b)],
        )
        for a, b, selection in pairs
        if a.rule != "mean"
    ]
    return [records[id(o)] for o in outcomes] + done[len(means) :] + pooled


def _pooled(record: Record, drawn: NDArray[np.float64]) -> Record:
    """Give a record the interval of its resamples; those without any positive unit are counted."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return record
    if left_out := len(drawn) - len(defined):
        record = replace(record, settings={**record.settings, "undefined_resamples": left_out})
    return replace(record, interval=percentile_interval(defined))


def _of_means(outcomes: Sequence[Outcome], config: BootstrapConfig) -> list[Record]:
    records: dict[int, Record] = {}
    for size in dict.fromkeys(len(o.values) for o in outcomes):
        some = [o for o in outcomes if len(o.values) == size]
        table = np.stack([o.values for o in some], axis=1)
        intervals = bootstrap_intervals(table, resamples=config.resamples, seed=config.seed)
        for outcome, interval in zip(some, intervals, strict=True):
            record = replace(outcome.record, interval=interval)
            if record.metric == "accuracy" and record.value in {0.0, 1.0}:
                wilson = wilson_interval(round(record.value * record.n), record.n)
                record = replace(record, interval=wilson)
            elif record.metric != "accuracy" and _is_unanimous(outcome.values):
                equal = unanimous_interval(int(outcome.values[0]), record.n)
                record = replace(record, interval=equal)
            records[id(outcome)] = record
    return [records[id(o)] for o in outcomes]


def _is_unanimous(values: NDArray[Any]) -> bool:
    return values.dtype == np.int8 and len(set(values.tolist())) == 1


Pair = tuple[Outcome, Outcome, str]  # and what the choice of the two was made on


def _pairs(outcomes: Sequence[Outcome]) -> list[Pair]:
    """Pair ``trained`` with every other model on the same units.

    For each benchmark, metric and k: the same features of the two models, or each kind with the
    only kind of the other model. For k-NN at the headline's k also the best kind of each, if they
    differ.
    """
    pairs: list[Pair] = []
    for key in dict.fromkeys((o.record.benchmark, o.record.metric) for o in outcomes):
        some = [o for o in outcomes if (o.record.benchmark, o.record.metric) == key]
        names = dict.fromkeys(o.record.model for o in some)
        main, *others = (
            [o for o in some if o.record.model == name]
            for name in (_MAIN, *(name for name in names if name != _MAIN))
        )
        for other in others:
            pairs += [(a, b, "") for a, b in _like_pairs(main, other)]
            pairs += _best_pair(main, other)
    return pairs


def _like_pairs(
    main: Sequence[Outcome], other: Sequence[Outcome]
) -> Iterator[tuple[Outcome, Outcome]]:
    has_one_kind = len({o.setting("features") for o in other}) == 1
    for a in main:
        for b in other:
            same = has_one_kind or a.setting("features") == b.setting("features")
            if same and a.setting("k") == b.setting("k") and np.array_equal(a.units, b.units):
                yield a, b


def _best_pair(main: Sequence[Outcome], other: Sequence[Outcome]) -> list[Pair]:
    k = headline_k(k_and_bank(o.record) for o in main)
    if k is None:
        return []
    # The largest value, the first of equals: features are in the order of the report.
    a, b = (
        max((o for o in group if o.setting("k") == k), key=lambda o: o.record.value, default=None)
        for group in (main, other)
    )
    if a is None or b is None or (a, b) in list(_like_pairs([a], other)):
        return []
    # The kinds of features were chosen by the very scores that are compared.
    return [(a, b, "test-peek")]


def _difference(a: Outcome, b: Outcome, selection: str) -> Outcome:
    values = a.values - b.values
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    settings = _compared(a, b) | {"wins": wins, "losses": losses}
    if values.dtype == np.int8:  # else an image may be half right
        settings["mcnemar_p"] = mcnemar_exact(wins, losses)
    record = _between(a, b, selection)
    return Outcome(replace(record, value=float(values.mean()), settings=settings), values)


def _between(a: Outcome, b: Outcome, selection: str) -> Record:
    return replace(
        a.record,
        model=f"{a.record.model} - {b.record.model}",
        metric=f"{a.record.metric}_difference",
        selection=selection or a.record.selection,
    )


def _compared(a: Outcome, b: Outcome) -> dict[str, Any]:
    settings = {
        "model_a": a.record.model,
        "model_b": b.record.model,
        "features_a": a.setting("features"),
        "features_b": b.setting("features"),
    }
    numbers = [o.setting("without_leaked") for o in (a, b)]
    if None not in numbers:
        settings |= {"without_leaked": numbers[0] - numbers[1]}
        settings |= {name: a.setting(name) for name in ("units_left", "units_dropped")}
    return settings if a.setting("k") is None else settings | {"k": a.setting("k")}
