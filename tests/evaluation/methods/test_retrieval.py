"""Whole rankings in blocks, and the k-NN of recognition benchmarks."""

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods import retrieval
from dinoforge.evaluation.methods.retrieval import (
    choose_instance_settings,
    classify_instances,
    rank_database,
)
from dinoforge.evaluation.metrics.ranking import average_precisions, leave_one_out
from dinoforge.neighbors.search import Neighbors


def features(n=30, d=8):
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def test_blocks_do_not_change_the_ranking(monkeypatch):
    rows, labels = features(), np.arange(30) % 4
    rows[7] = 2 * rows[3]  # an equal direction: a tie
    (whole,) = rank_database(rows, rows, leave_one_out(labels))
    monkeypatch.setattr(retrieval, "_PRODUCT_BYTES", 8 * 30 * 4)
    blocks = list(rank_database(rows, rows, leave_one_out(labels)))
    assert [len(block) for block in blocks] == [4] * 7 + [2]
    joined = [positions for block in blocks for positions in block.positions]
    for one, other in zip(whole.positions, joined, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cosines_that_float32_cannot_tell_apart_are_ranked():
    # All vectors within 1e-4 of each other: cosines differ by 1e-9.
    rng = np.random.default_rng(0)
    rows = (1.0 + 1e-4 * rng.normal(size=(12, 4))).astype(np.float32)
    labels = np.arange(12) % 3
    wide = rows.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    (ranks,) = rank_database(rows, rows, leave_one_out(labels))
    for query, positions in enumerate(ranks.positions):
        others = np.delete(np.arange(12), query)
        order = others[np.argsort(-(unit[others] @ unit[query]), kind="stable")]
        expected = np.flatnonzero(labels[order] == labels[query])
        np.testing.assert_array_equal(positions, expected)


def test_a_blank_image_ranks_everything_by_index():
    rows = features(4)
    rows[2] = 0
    judgments = leave_one_out(np.array([1, 0, 1, 0]), np.array([2]))
    (ranks,) = rank_database(rows[2:3], rows, judgments)
    values = average_precisions(ranks, rule="step")
    assert values.tolist() == [1.0]


def test_features_that_are_not_finite_are_refused():
    rows = features(4)
    rows[1, 0] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        next(rank_database(rows, rows, leave_one_out(np.zeros(4, int))))


def test_the_class_with_the_best_similarity_wins_and_absent_classes_share_the_confidence():
    neighbors = Neighbors(
        np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1]]),
        np.array([[0.9, 0.8, 0.7], [-0.5, -np.inf, -np.inf], [-np.inf] * 3], np.float32),
    )
    labels = np.array([5, 2, 5, 2])
    predicted, confidences = classify_instances(neighbors, labels, scale=10.0, num_classes=4)
    assert predicted.tolist() == [5, 2, -1]
    expected = np.exp(9) / (np.exp(9) + np.exp(8) + 2)
    assert confidences == pytest.approx([expected, 1 / 4, 0.0], rel=1e-6)


def test_a_large_scale_does_not_overflow():
    neighbors = Neighbors(np.array([[0, 1]]), np.array([[1.0, 0.5]], np.float32))
    _, confidences = classify_instances(neighbors, np.array([0, 1]), scale=1e4, num_classes=2)
    assert confidences.tolist() == [1.0]


def test_k_and_scale_are_chosen_by_gap_on_validation_queries():
    # Query 0 is right at any k. Of the distractor, the second neighbor is of another class, so with
    # a small scale and k = 2 it is less certain than query 0; its best similarity is higher.
    neighbors = Neighbors(
        np.array([[0, 1], [2, 3]]), np.array([[0.8, 0.79], [0.85, 0.84]], np.float32)
    )
    labels, query_labels = np.array([4, 4, 5, 6]), np.array([4, -1])
    chosen = choose_instance_settings(
        neighbors, labels, query_labels, grid=([1, 2], [1.0, 50.0]), num_classes=3
    )
    assert chosen == (2, 1.0, 1.0)
    alone = choose_instance_settings(
        neighbors, labels, query_labels, grid=([1], [1.0]), num_classes=3
    )
    assert alone == (1, 1.0, 0.5)
