"""Ranked lists: average precision against loops and scikit-learn, junk, ties, leave-one-out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics import ranking
from dinoforge.evaluation.metrics.ranking import Judgment, Ranks


def rows(*values):
    return np.array(values, np.int64)


def made(seed, n=40, q=5):
    """Similarities of q queries to n images, some of them equal, with positives and junk."""
    rng = np.random.default_rng(seed)
    similarities = rng.integers(0, 25, (q, n)) / 25
    judgments = []
    for _ in range(q):
        order = rng.permutation(n)
        positives, junk = rng.integers(0, 9, 2)
        judgments.append(Judgment(order[:positives], order[positives : positives + junk]))
    return similarities, judgments


def walk(similarities, judgment):
    """Go down the list of one query, without junk: is it a positive?"""
    order = sorted(range(len(similarities)), key=lambda i: (-similarities[i], i))
    return [i in judgment.positives for i in order if i not in judgment.junk]


@given(st.integers(0, 10_000))
def test_values_equal_those_of_a_walk_down_the_list(seed):
    similarities, judgments = made(seed)
    ranks = ranking.rank_positives(similarities, judgments)
    step = ranking.average_precisions(ranks, rule="step")
    area = ranking.average_precisions(ranks, rule="trapezoid")
    for query, judgment in enumerate(judgments):
        flags = walk(similarities[query], judgment)
        if not sum(flags):
            assert np.isnan([step[query], area[query], ranking.hits_at(ranks, 3)[query]]).all()
            continue
        precision = [sum(flags[: i + 1]) / (i + 1) for i in range(len(flags))]
        assert step[query] == pytest.approx(
            sum(p for p, flag in zip(precision, flags, strict=True) if flag) / sum(flags)
        )
        before = [1.0, *precision]
        lines = [(before[i] + before[i + 1]) / 2 for i, flag in enumerate(flags) if flag]
        assert area[query] == pytest.approx(sum(lines) / sum(flags))
        last = max(i for i, flag in enumerate(flags) if flag) + 1
        for k in (1, 5, 30):
            most = min(k, last)
            assert ranking.precisions_at(ranks, k)[query] == sum(flags[:most]) / most
            assert ranking.hits_at(ranks, k)[query] == any(flags[:k])


def test_step_average_precision_is_that_of_scikit_learn_without_ties():
    rng = np.random.default_rng(0)
    similarities = rng.permutation(60).reshape(3, 20) / 60.0
    truth = rng.random((3, 20)) < 0.3
    judgments = [Judgment(np.flatnonzero(row), rows()) for row in truth]
    values = ranking.average_precisions(
        ranking.rank_positives(similarities, judgments), rule="step"
    )
    expected = [average_precision_score(t, s) for t, s in zip(truth, similarities, strict=True)]
    assert values == pytest.approx(expected)


def test_difficulties_take_their_positives_and_junk_from_the_three_lists():
    easy, hard, junk = rows(1, 2), rows(3), rows(4, 5)
    judged = {d: ranking.judge(easy, hard, junk, d) for d in ("easy", "medium", "hard")}
    lists = {d: (j.positives.tolist(), sorted(j.junk.tolist())) for d, j in judged.items()}
    assert lists == {
        "easy": ([1, 2], [3, 4, 5]),
        "medium": ([1, 2, 3], [4, 5]),
        "hard": ([3], [1, 2, 4, 5]),
    }


def test_positives_below_the_depth_count_as_not_retrieved():
    ranks = Ranks((rows(0, 25), rows(19), rows(20)), rows(2, 1, 1), rows(30, 30, 30))
    values = ranking.average_precisions(ranks, rule="trapezoid", depth=20)
    assert values == pytest.approx([0.5, 1 / 40, 0.0])


def test_the_image_itself_leaves_the_list_by_its_index_even_behind_its_copies():
    # Image 2 is a copy of image 0: of both, image 0 comes first in every list.
    similarities = np.array([[1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [1.0, 0.2, 1.0]])
    labels = rows(7, 7, 8)
    ranks = ranking.rank_positives(similarities, ranking.leave_one_out(labels))
    assert [positions.tolist() for positions in ranks.positions] == [[1], [0], []]
    some = ranking.rank_positives(similarities[1:2], ranking.leave_one_out(labels, rows(1)))
    assert [positions.tolist() for positions in some.positions] == [[0]]


def test_images_without_a_class_are_nobodys_positives():
    judgments = list(ranking.leave_one_out(rows(-1, 3, -1, 3)))
    assert [judgment.positives.tolist() for judgment in judgments] == [[], [3], [], [1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_similarities_that_are_not_finite_are_refused(value):
    similarities, judgments = made(0)
    similarities[3, 1] = value
    with pytest.raises(UsageError, match=r"1 of 5 queries .* not finite - query 3 - "):
        ranking.rank_positives(similarities, judgments)


def test_ns_score_counts_the_group_among_four():
    groups = np.arange(8) // 4
    neighbors = np.array([[0, 1, 2, 3], [1, 4, 5, 6], [2, 0, -1, -1], [3, 0, 1, 4]])
    assert ranking.ns_scores(neighbors, groups[:8], np.arange(4)).tolist() == [4, 1, 2, 3]


def test_expected_average_precision_of_chance_is_the_mean_over_random_orders():
    rng = np.random.default_rng(0)
    positives, n = 6, 30
    orders = [rng.permutation(n)[:positives] for _ in range(20_000)]
    ranks = Ranks(
        tuple(np.sort(order) for order in orders),
        np.full(len(orders), positives),
        np.full(len(orders), n),
    )
    mean = ranking.average_precisions(ranks, rule="step").mean()
    expected = ranking.chance_average_precisions(rows(positives, 0, 1), rows(n, n, 1))
    assert mean == pytest.approx(expected[0], abs=0.003)
    assert np.isnan(expected[1])
    assert expected[2] == 1.0
