"""Micro-AP, recall at a precision and GAP against loops, and under resampling of queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dinoforge.errors import UsageError
from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.metrics import copies


def made(seed, queries=7, k=5):
    """Lists of some queries with equal scores in them, and the true images of every query."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(12)[:k] for _ in range(queries)])
    scores = -np.sort(-rng.integers(0, 9, (queries, k)), axis=1) / 9
    matches = [rng.permutation(12)[: rng.integers(0, 3)] for _ in range(queries)]
    return ids, scores, matches


def worst_order(ids, scores, matches, chosen):
    """All pairs of the chosen queries, by score, equal scores wrong first: is it a match?"""
    pairs = [
        (-scores[q, place], bool(ids[q, place] in matches[q]))
        for q in chosen
        for place in range(ids.shape[1])
    ]
    return sorted(pairs)


@given(st.integers(0, 10_000))
def test_metrics_of_a_resample_are_those_of_its_queries_written_out(seed):
    ids, scores, matches = made(seed)
    pairs = copies.pairs_of_lists(ids, scores, matches, list_length=5)
    chosen = np.random.default_rng(seed).integers(0, 7, 7)
    counts = np.bincount(chosen, minlength=7)
    num_true = sum(len(matches[q]) for q in chosen)
    value = copies.micro_average_precision(pairs, counts)
    point = copies.recall_at_precision(pairs, 0.5, counts)
    if not num_true:
        assert np.isnan([value, point.recall]).all()
        return
    area = hits = 0
    best, threshold = 0.0, np.inf
    for rank, (score, is_match) in enumerate(worst_order(ids, scores, matches, chosen), start=1):
        hits += is_match
        area += is_match * hits / rank
        if hits / rank >= 0.5 and hits / num_true > best:
            best, threshold = hits / num_true, -score
    assert value == pytest.approx(area / num_true)
    assert point == pytest.approx((best, threshold))


def test_equal_scores_never_help():
    ids = np.array([[0, 1], [0, 1]])
    pairs = copies.pairs_of_lists(ids, np.ones((2, 2)), [[0], [0]], list_length=2)
    # Wrong, wrong, right, right.
    assert copies.micro_average_precision(pairs) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert copies.found_within(pairs, 1).tolist() == [0, 0]
    assert copies.found_within(pairs, 2).tolist() == [1, 1]


def test_micro_ap_of_whole_lists_is_that_of_scikit_learn_without_ties():
    rng = np.random.default_rng(3)
    scores = rng.permutation(60).reshape(6, 10) / 60
    order = np.argsort(-scores, axis=1)
    matches = [rng.permutation(10)[:2] for _ in range(6)]
    truth = np.stack([np.isin(np.arange(10), true) for true in matches])
    pairs = copies.pairs_of_lists(
        order, np.take_along_axis(scores, order, axis=1), matches, list_length=10
    )
    expected = average_precision_score(truth.ravel(), scores.ravel())
    assert copies.micro_average_precision(pairs) == pytest.approx(expected)


def test_the_length_of_the_lists_changes_the_score_and_is_kept():
    ids = np.array([[0, 1], [3, 2]])
    scores = np.array([[0.9, 0.8], [0.7, 0.6]])
    short, long = (
        copies.pairs_of_lists(ids, scores, [[0], [2]], list_length=length) for length in (1, 2)
    )
    assert (short.list_length, long.list_length) == (1, 2)
    assert copies.micro_average_precision(short) == 0.5
    assert copies.micro_average_precision(long) == pytest.approx((1 + 2 / 4) / 2)


def test_missing_neighbors_are_no_pairs():
    ids, scores = np.array([[4, -1]]), np.array([[0.5, -np.inf]])
    pairs = copies.pairs_of_lists(ids, scores, [[4, 7]], list_length=2)
    assert len(pairs.query) == 1
    assert copies.micro_average_precision(pairs) == 0.5
    assert copies.found_within(pairs, 1).tolist() == [1]


def test_no_threshold_reaches_the_precision():
    pairs = copies.pairs_of_lists(np.array([[1, 0]]), np.array([[0.9, 0.8]]), [[0]], list_length=2)
    assert copies.recall_at_precision(pairs) == (0.0, np.inf)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(UsageError, match=r"1 pairs have scores that are not finite - query 5 - "):
        copies.sort_pairs(
            np.array([4, 5]), np.array([True, False]), np.array([1.0, np.nan]), np.ones(6, int)
        )


def test_met_scores_of_a_hand_count():
    labels = np.array([3, 4, -1, 5])
    predicted = np.array([3, 9, 3, 5])
    pairs = copies.met_pairs(labels, predicted, np.array([0.9, 0.8, 0.7, 0.6]))
    gap = copies.pack_pairs(pairs)
    of_objects = copies.pack_pairs(copies.pairs_of_objects(pairs))
    right = np.stack([copies.found_within(pairs, 1), pairs.num_true], axis=1)
    assert combine("micro_ap", gap) == pytest.approx((1 + 2 / 4) / 3)
    assert combine("micro_ap", of_objects) == pytest.approx((1 + 2 / 3) / 3)
    assert combine("ratio", right) == pytest.approx(2 / 3)
    drawn = np.array([2, 0, 1, 1])  # query 0 twice, the distractor once, query 3 once
    assert combine("micro_ap", gap, drawn) == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert combine("micro_ap", of_objects, drawn) == combine("ratio", right, drawn) == 1.0


def test_a_limit_on_all_pairs_keeps_the_best_wrong_ones_first():
    ids = np.array([[0, 1], [3, 2]])
    scores = np.array([[0.9, 0.8], [0.8, 0.6]])
    pairs = copies.pairs_of_lists(ids, scores, [[1], [2]], list_length=2, max_pairs=2)
    assert pairs.is_match.tolist() == [False, False]
    assert (pairs.max_pairs, copies.micro_average_precision(pairs)) == (2, 0.0)
