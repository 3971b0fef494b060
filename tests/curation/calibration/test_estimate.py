"""Estimates from labels: exact where all is known, honest where it is not."""

import numpy as np
import pytest

from dinoforge.curation.calibration.estimate import (
    ThresholdEstimate,
    estimate_bins,
    estimate_thresholds,
    recommend,
)
from dinoforge.curation.calibration.sample import Bin

BINS = [Bin(0.8, 0.9, 100), Bin(0.9, 0.95, 40), Bin(0.95, 1.0, 10)]


def thresholds(same, different):
    return estimate_thresholds(estimate_bins(BINS, np.array(same), np.array(different)))


def test_a_bin_has_the_share_of_its_labels_with_the_interval_of_wilson():
    low, _, high = estimate_bins(BINS, np.array([2, 0, 10]), np.array([8, 0, 0]))
    assert low.precision == 0.2
    assert low.interval == pytest.approx((0.0567, 0.5098), abs=1e-4)
    assert (high.precision, high.interval[1]) == (1.0, 1.0)


def test_bins_count_by_the_pairs_that_they_stand_for():
    low, middle, high = thresholds([2, 9, 10], [8, 1, 0])
    # 100 * 0.2 + 40 * 0.9 + 10 * 1 = 66 true pairs of 150
    assert (low.pairs, low.precision) == (150, 0.44)
    assert middle.precision == pytest.approx(46 / 50)
    assert middle.recall == pytest.approx(46 / 66, abs=1e-6)
    assert (high.precision, high.recall) == (1.0, pytest.approx(10 / 66, abs=1e-6))


def test_a_bin_that_is_labeled_completely_is_certain():
    (_, _, high) = thresholds([2, 9, 8], [8, 1, 2])
    assert high.precision_interval == (0.8, 0.8)


def test_intervals_hold_the_truth_about_as_often_as_they_promise():
    rng = np.random.default_rng(0)
    truth, num = np.array([0.3, 0.8, 0.95]), np.array([20, 20, 20])
    bins = [Bin(0.8, 0.9, 1000), Bin(0.9, 0.95, 1000), Bin(0.95, 1.0, 1000)]
    inside = 0
    for _ in range(200):
        same = rng.binomial(num, truth)
        estimates = estimate_thresholds(estimate_bins(bins, same, num - same))
        low, high = estimates[0].precision_interval
        inside += low <= truth.mean() <= high
    assert inside >= 180


def test_nothing_is_claimed_about_what_has_no_label():
    low, middle, high = thresholds([2, 0, 10], [8, 0, 0])
    assert (low.precision, middle.precision, low.recall, high.recall) == (None, None, None, None)
    assert high.precision == 1.0


def at(threshold, precision, pairs=5):
    return ThresholdEstimate(threshold, pairs, precision, None, None, None)


def test_the_lowest_threshold_that_reaches_the_target_is_recommended():
    estimates = [at(0.8, 0.7), at(0.85, 0.95), at(0.9, 0.99), at(0.95, 1.0), at(0.98, None, 0)]
    assert recommend(estimates, 0.99) == 0.9
    assert recommend(estimates, 0.95) == 0.85
    assert recommend(estimates, 0.5) == 0.8
    assert recommend([at(0.8, 0.9), at(0.9, 0.8)], 0.85) is None
    assert recommend([at(0.8, 1.0), at(0.9, None)], 0.85) is None
