"""What protocols on classes share: which test images they need, and how answers are graded."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.layouts.classified import Grading
from dinoforge.evaluation.metrics.classification import any_match, corruption_errors
from dinoforge.evaluation.outcomes import Measured, Outcome

__all__ = ["can_train", "grade", "grade_labels", "test_rows"]

_log = logging.getLogger(__name__)

_FEW_IMAGES = 30  # the interval of fewer test images nearly always includes chance


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
    is_right = np.stack([any_match(one, grading.truths) for one in each])  # [R, n]
    by_run = [_values(grading, right) for right in is_right]
    rule = "class_mean" if grading.metric == "mean_per_class" else "mean"
    values = by_run[0] if len(by_run) == 1 else np.mean(by_run, axis=0)
    if runs:
        numbers = [combine(rule, one) for one in by_run]
        deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
        settings |= {runs: len(numbers), "deviation": deviation}
    if runs in {"", "seeds"} and len(grading.rows) >= _FEW_IMAGES:  # few labels may give no more
        settings |= _chance(grading)
    settings |= _facts(grading, is_right)
    data = f"{measured.data}/{grading.name}" if grading.name else measured.data
    record = replace(measured, data=data).record(
        protocol,
        grading.metric,
        combine(rule, values),
        len(grading.rows),
        selection=selection,
        **settings,
    )
    return Outcome(record, values, rule, measured.units[grading.name])


def _chance(grading: Grading) -> dict[str, float]:
    """Return what the answer that is right most often would score."""
    if grading.metric == "mce":
        return {}
    classes, counts = np.unique(grading.truths[grading.truths >= 0], return_counts=True)
    if grading.metric == "mean_per_class":
        return {"chance": 1 / len(classes)}
    return {"chance": float(counts.max() / len(grading.rows))}


def grade_labels(
    measured: Measured,
    protocol: str,
    grading: Grading,
    scores: NDArray[Any],
    *,
    selection: str,
    **settings: Any,
) -> list[Outcome]:
    """Compare scores ``[n, K]`` of K labels with which of them images have: mean AP and AUROC."""
    values = np.stack([scores, grading.truths], axis=1)
    outcomes = []
    for metric in (grading.metric, "auroc"):
        each = [combine(metric, values[:, :, [label]]) for label in range(scores.shape[1])]
        present = [value for value in each if np.isfinite(value)]
        record = measured.record(
            protocol,
            metric,
            combine(metric, values),
            len(values),
            selection=selection,
            per_label=[None if np.isnan(value) else value for value in each],
            labels=len(present),
            **settings,
        )
        outcomes.append(Outcome(record, values, metric, measured.units[grading.name]))
    return outcomes


def _values(grading: Grading, is_right: NDArray[np.bool_]) -> NDArray[Any]:
    """Return what an image, or of mCE an undistorted image, contributes."""
    if grading.metric == "mean_per_class":
        return np.stack([is_right, grading.truths[:, 0]], axis=1).astype(np.float64)
    if grading.variants is not None:
        return corruption_errors(~is_right, grading.variants)[0]
    return is_right.astype(np.int8)


def _facts(grading: Grading, is_right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return settings: classes that compete, images left out, parts of mCE."""
    facts = dict(grading.facts)
    if grading.kept is not None:
        facts["classes"] = len(grading.kept)
    if grading.metric == "mean_per_class":
        facts["classes"] = len(np.unique(grading.truths))
    if grading.variants is not None:
        _, facts["relative_errors"] = corruption_errors((~is_right).mean(axis=0), grading.variants)
    return facts
