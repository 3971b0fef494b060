"""What a protocol measures, unit by unit, and the records made of it.

`Measured` is one model with its features. An `Outcome` is a record together with its value on
every unit that is resampled (a test image, a query, a sequence), so that two outcomes on the same
units can be compared in pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.scores import headline_k, k_and_bank
from dinoforge.intervals import (
    bootstrap_intervals,
    mcnemar_exact,
    unanimous_interval,
    wilson_interval,
)
from dinoforge.records import Record

__all__ = ["Measured", "Outcome", "differences", "with_intervals"]

_MAIN = "trained"


@dataclass(frozen=True)
class Measured:
    """One model with its features of the bank and of the test images."""

    data: str  # name of the data set
    model: Model
    bank: Rows
    test: Rows
    checkpoint: str  # of its records
    device: str
    leave_one_out: bool = False

    def labeled(self) -> "Measured":
        """Keep the images whose class is known."""
        return replace(self, bank=self.bank.labeled(), test=self.test.labeled())

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
            checkpoint=self.checkpoint,
        )

    def accuracy(self, protocol: str, correct: NDArray[np.bool_], **facts: Any) -> "Outcome":
        """Return the accuracy over test images; ``facts`` are those of `record`."""
        record = self.record(protocol, "accuracy", float(correct.mean()), len(correct), **facts)
        return Outcome(record, correct.astype(np.int8))


@dataclass(frozen=True)
class Outcome:
    """A record without an interval, and its value on every unit."""

    record: Record
    # [n]: int8 1 right, 0 wrong, of a difference -1, 0 or 1; float64 means of several tries. Empty:
    # a number without an interval
    values: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int8))

    def setting(self, name: str) -> Any:
        """Return a setting of the record, or None."""
        return self.record.settings.get(name)


def with_intervals(outcomes: Sequence[Outcome], config: BootstrapConfig) -> list[Record]:
    """Give every outcome its 95 % interval: by bootstrap, or by formula if all values are equal.

    The outcomes are of the same test images in the same order, and share their resamples.
    """
    if not outcomes:
        return []
    table = np.stack([outcome.values for outcome in outcomes], axis=1)
    intervals = bootstrap_intervals(table, resamples=config.resamples, seed=config.seed)
    records = []
    for outcome, interval in zip(outcomes, intervals, strict=True):
        record = replace(outcome.record, interval=interval)
        if record.metric == "accuracy" and record.value in {0.0, 1.0}:
            wilson = wilson_interval(round(record.value * record.n), record.n)
            record = replace(record, interval=wilson)
        elif record.metric != "accuracy" and _is_unanimous(outcome.values):
            equal = unanimous_interval(int(outcome.values[0]), record.n)
            record = replace(record, interval=equal)
        records.append(record)
    return records


def _is_unanimous(values: NDArray[Any]) -> bool:
    return len(set(values.tolist())) == 1 and values[0] in {-1, 0, 1}


def differences(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Compare ``trained`` with every other model on the same test images.

    For each protocol and k: the same features of the two models, or each kind with the only kind
    of the other model. For k-NN at the headline's k also the best kind of each, if they differ.
    """
    compared = []
    for benchmark in dict.fromkeys(outcome.record.benchmark for outcome in outcomes):
        of_benchmark = [o for o in outcomes if o.record.benchmark == benchmark]
        names = dict.fromkeys(o.record.model for o in of_benchmark)
        main, *others = (
            [o for o in of_benchmark if o.record.model == name]
            for name in (_MAIN, *(name for name in names if name != _MAIN))
        )
        for other in others:
            compared += [_difference(a, b) for a, b in _like_pairs(main, other)]
            compared += _best_pair(main, other)
    return compared


def _like_pairs(
    main: Sequence[Outcome], other: Sequence[Outcome]
) -> Iterator[tuple[Outcome, Outcome]]:
    has_one_kind = len({o.setting("features") for o in other}) == 1
    for a in main:
        for b in other:
            same = has_one_kind or a.setting("features") == b.setting("features")
            if same and a.setting("k") == b.setting("k"):
                yield a, b


def _best_pair(main: Sequence[Outcome], other: Sequence[Outcome]) -> list[Outcome]:
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
    difference = _difference(a, b)
    # The kinds of features were chosen by the very scores that are compared.
    return [replace(difference, record=replace(difference.record, selection="test-peek"))]


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
    }
    if values.dtype == np.int8:  # else an image may be half right
        settings["mcnemar_p"] = mcnemar_exact(wins, losses)
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
