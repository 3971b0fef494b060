"""Few labeled images per class: draws, k-NN on them, and MSN's logistic regression."""

import logging

import numpy as np
import pytest

from dinoforge.evaluation.methods.low_shot import (
    center_rows,
    draw_few,
    few_shot_knn,
    few_shot_ks,
    msn_low_shot,
)


def blobs(n, seed, dim=8, classes=4, spread=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centers = 2 * np.eye(classes, dim)
    return (centers[labels] + spread * generator.normal(size=(n, dim))).astype(np.float32), labels


def test_draws_have_the_same_number_of_every_class_and_a_seed():
    labels = np.array([2, 0, 0, 2, 5, 5, 5, 0, -1])
    rows = draw_few(labels, 2, seed=1)
    assert labels[rows].tolist() == [0, 0, 2, 2, 5, 5]
    assert len(set(rows.tolist())) == 6
    assert draw_few(labels, 2, seed=1).tolist() == rows.tolist()
    assert any(draw_few(labels, 2, seed=s).tolist() != rows.tolist() for s in range(2, 6))


def test_a_class_with_fewer_images_gives_all_and_is_reported(caplog):
    with caplog.at_level(logging.WARNING):
        rows = draw_few(np.array([0, 1, 1, 1]), 2, seed=0)
    assert len(rows) == 3
    assert "1 classes have fewer than 2 images" in caplog.text


def test_few_shot_knn_has_the_k_up_to_the_images_of_a_class():
    bank, labels = blobs(40, 0)
    queries, truth = blobs(30, 1, spread=0.3)
    ks = few_shot_ks([1, 3, 10], 5)
    assert ks == [1, 3, 5]
    draws = [draw_few(labels, 5, seed) for seed in range(3)]
    predicted = few_shot_knn(bank, labels, queries, draws, ks=ks, temperature=0.07)
    assert predicted[5].shape == (3, 30)
    assert (predicted[5] == truth).mean() > 0.7


def test_rows_are_centered_each_by_itself():
    rows = center_rows(np.array([[1.0, 2.0, 3.0], [10.0, 10.0, 13.0]], np.float32))
    root = np.sqrt(2), np.sqrt(6)
    truth = [[-1 / root[0], 0, 1 / root[0]], [-1 / root[1], -1 / root[1], 2 / root[1]]]
    np.testing.assert_allclose(rows, truth, atol=1e-7)


def test_scikit_learn_agrees_on_the_regression_of_msn():
    from sklearn.linear_model import LogisticRegression

    train, labels = blobs(60, 2)
    test, truth = blobs(200, 3)
    splits = [draw_few(labels, 5, seed) for seed in range(3)]
    fits = msn_low_shot(train, labels, splits)
    predicted = np.stack([fit.predict(center_rows(test)) for fit in fits])
    for split, result in zip(splits, predicted, strict=True):
        peer = LogisticRegression(C=1 / 0.0025, fit_intercept=False, tol=1e-10, max_iter=5000)
        peer.fit(center_rows(train[split]).astype(np.float64), labels[split])
        expected = peer.predict(center_rows(test).astype(np.float64))
        np.testing.assert_array_equal(result, expected)
    assert (predicted == truth).mean() > 0.5


@pytest.mark.parametrize("c", [1e-3, 1.0, 400.0])
def test_without_bias_the_gradient_is_zero_at_the_solution(c):
    from dinoforge.evaluation.logistic import fit_logistic

    x, labels = blobs(50, 4)
    x = x.astype(np.float64) + 0.5
    (fit,) = fit_logistic(x, labels, [c], bias=False)
    scores = x @ fit.weights.T
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    slope = c * (probabilities - (labels[:, None] == fit.classes)).T @ x + fit.weights
    assert np.abs(slope).max() < 1e-6 * max(1.0, c)
    assert not fit.bias.any()
