"""Numbers of resampled units: equal to those of the units, written out as often as drawn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from dinoforge.evaluation.combining import as_known, combine
from dinoforge.evaluation.metrics.classification import average_precision_11

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 4, 40)
DRAWN = np.repeat(np.arange(40), COUNTS)
SCORES = RNG.integers(0, 12, (40, 3)).astype(float)  # with ties
TRUTHS = RNG.integers(0, 2, (40, 3))


def per_label(metric):
    columns = range(SCORES.shape[1])
    return np.mean([metric(TRUTHS[DRAWN, c], SCORES[DRAWN, c]) for c in columns])


@pytest.mark.parametrize(
    ("rule", "peer"), [("map", average_precision_score), ("auroc", roc_auc_score)]
)
def test_scores_of_labels_agree_with_scikit_learn(rule, peer):
    values = np.stack([SCORES, TRUTHS], axis=1)
    assert combine(rule, values, COUNTS) == pytest.approx(per_label(peer))


def test_eleven_points_of_a_resample():
    distinct = SCORES + np.arange(40)[:, None] / 100
    values = np.stack([distinct, TRUTHS], axis=1)
    each = [average_precision_11(distinct[DRAWN, c], TRUTHS[DRAWN, c]) for c in range(3)]
    assert combine("map_11", values, COUNTS) == pytest.approx(np.mean(each))


def test_difficult_images_and_labels_without_a_positive_do_not_count():
    values = np.zeros((4, 2, 2))
    values[:, 0, 0] = [4, 3, 2, 1]
    values[:, 1, 0] = [-1, 1, 0, 0]
    assert combine("map", values) == combine("map_11", values) == combine("auroc", values) == 1.0


def test_means_per_class_are_the_balanced_accuracy():
    labels, predicted = RNG.integers(0, 4, 40), RNG.integers(0, 4, 40)
    values = np.stack([labels == predicted, labels], axis=1).astype(float)
    expected = balanced_accuracy_score(labels[DRAWN], predicted[DRAWN])
    assert combine("class_mean", values, COUNTS) == pytest.approx(expected)


def test_units_without_a_value_leave_the_mean():
    rule, values = as_known(np.array([0.5, np.nan, 1.0]))
    assert combine(rule, values) == 0.75
    assert combine(rule, values, np.array([3, 9, 1])) == pytest.approx(2.5 / 4)
    assert np.isnan(combine(rule, values, np.array([0, 5, 0])))
    assert as_known(np.arange(3))[0] == "mean"
