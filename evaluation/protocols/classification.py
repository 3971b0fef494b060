"""What protocols on classes share: which test images they need, and how answers are graded."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.layouts.classified import Grading
from dinoforge.evaluation.outcomes import Measured, Outcome

__all__ = ["can_train", "grade", "test_rows"]

_log = logging.getLogger(__name__)


def can_train(measured: Measured, what: str) -> bool:
    """Whether there are test images of their own and two classes; else logs what is skipped."""
    known = measured.bank.labels[measured.bank.labels >= 0]
    is_possible = not measured.leave_one_out and measured.gradings and len(np.unique(known)) > 1
    if not is_possible:
        text = "%s: %s skipped: needs test images and two classes"
        _log.warning(text, measured.model.name, what)
    return bool(is_possible)


def test_rows(test: Rows, grading: Grading) -> NDArray[np.int64]:
    """Return where the test images of a grading are among those that decode."""
    return np.searchsorted(test.rows, grading.rows)


def grade(
    measured: Measured,
    protocol: str,
    grading: Grading,
    predicted: NDArray[np.int64],
    *,
    runs: str = "",
    selection: str = "none",
    **settings: Any,
) -> Outcome:
    """Compare the classes that a model names with those that are right.

    ``predicted`` are classes ``[n]``, or ``[R, n]`` of R ``runs`` (seeds, draws), whose mean is the
    number and whose standard deviation is a setting; -1 names none.
    """
    each = np.atleast_2d(predicted)
    is_right = np.any(
        (each[:, :, None] == grading.truths) & (grading.truths >= 0), axis=2
    )  # [R, n]
    by_run = [_values(grading, right) for right in is_right]
    rule = "class_mean" if grading.metric == "mean_per_class" else "mean"
    values = by_run[0] if len(by_run) == 1 else np.mean(by_run, axis=0)
    if runs:
        numbers = [combine(rule, one) for one in by_run]
        deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
        settings |= {runs: len(numbers), "deviation": deviation}
    data = f"{measured.data}/{grading.name}" if grading.name else measured.data
    record = replace(measured, data=data).record(
        protocol,
        grading.metric,
        combine(rule, values),
        len(values),
        selection=selection,
        **settings,
    )
    units = np.full(measured.num_images, -1)
    units[grading.rows] = np.arange(len(grading.rows))
    return Outcome(record, values, rule, units)


def _values(grading: Grading, is_right: NDArray[np.bool_]) -> NDArray[Any]:
    if grading.metric == "mean_per_class":
        return np.stack([is_right, grading.truths[:, 0]], axis=1).astype(np.float64)
    return is_right.astype(np.int8)
