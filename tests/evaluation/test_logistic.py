import logging
import warnings

import numpy as np
import pytest

from dinoforge.evaluation.logistic import choose_and_fit, fit_logistic, grid_of
from dinoforge.evaluation.settings import LogisticConfig


def blobs(n=120, dim=6, classes=4, seed=0, spread=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centers = generator.normal(size=(classes, dim))
    # Scales far apart: what makes plain gradient descent slow.
    x = (centers[labels] + spread * generator.normal(size=(n, dim))) * np.geomspace(1, 0.01, dim)
    return x, labels


def slope(x, labels, c, fit):
    """Gradient of the objective in W and in the bias."""
    scores = x @ fit.weights.T + fit.bias
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    errors = probabilities - (labels[:, None] == fit.classes)
    return c * errors.T @ x + fit.weights, c * errors.sum(axis=0)


@pytest.mark.parametrize("c", [1e-6, 1e-2, 1.0, 1e3])
def test_the_gradient_is_zero_at_the_solution(c):
    x, labels = blobs()
    (fit,) = fit_logistic(x, labels, [c])
    for part in slope(x, labels, c, fit):
        assert np.abs(part).max() < 1e-7 * max(1.0, c)


def test_scikit_learn_agrees():
    from sklearn.linear_model import LogisticRegression

    x, labels = blobs(seed=1)
    for c in (0.1, 10.0):
        (fit,) = fit_logistic(x, labels, [c])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = LogisticRegression(C=c, tol=1e-12, max_iter=10_000).fit(x, labels)
        np.testing.assert_allclose(fit.weights, peer.coef_, atol=1e-5)
        np.testing.assert_allclose(fit.bias, peer.intercept_ - peer.intercept_.mean(), atol=1e-5)


def test_a_warm_start_ends_where_a_cold_one_does():
    x, labels = blobs(seed=2)
    *_, warm = fit_logistic(x, labels, [1e-4, 1e-2, 1.0])
    (cold,) = fit_logistic(x, labels, [1.0])
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-8)


def test_moved_features_move_the_bias_only():
    x, labels = blobs(seed=3)
    (here,), (there,) = (fit_logistic(rows, labels, [1.0]) for rows in (x, x + 100.0))
    np.testing.assert_allclose(here.weights, there.weights, atol=1e-6)
    np.testing.assert_array_equal(here.predict(x), there.predict(x + 100.0))


def test_more_dimensions_than_rows():
    x, labels = blobs(n=12, dim=40, classes=3, seed=4)
    (fit,) = fit_logistic(x, labels, [1.0])
    weights, bias = slope(x, labels, 1.0, fit)
    assert np.abs(weights).max() < 1e-7
    assert np.abs(bias).max() < 1e-7


def test_a_class_without_rows_is_never_predicted():
    x, labels = blobs(seed=5)
    labels = labels * 2 + 1  # classes 1, 3, 5, 7
    (fit,) = fit_logistic(x, labels, [1.0])
    assert fit.classes.tolist() == [1, 3, 5, 7]
    assert set(fit.predict(x).tolist()) <= {1, 3, 5, 7}


def test_constant_features_predict_the_larger_class():
    labels = np.array([0] * 5 + [1] * 9)
    (fit,) = fit_logistic(np.ones((14, 3)), labels, [1.0])
    assert fit.predict(np.ones((2, 3))).tolist() == [1, 1]
    np.testing.assert_allclose(np.diff(fit.bias), np.log(9 / 5), atol=1e-7)


def test_the_smallest_c_of_the_best_accuracy_is_chosen():
    x, labels = blobs(n=400, spread=0.05, seed=6)
    config = LogisticConfig(c_min=1e-4, c_max=1e4, c_count=9, patience=0)
    chosen = choose_and_fit(x, labels, config=config, seed=0)
    accuracies = chosen.held_out_accuracies
    assert len(accuracies) == 9
    assert max(accuracies) == accuracies[-1]  # several are equally good
    first = accuracies.index(max(accuracies))
    assert chosen.c == grid_of(config)[first]


def test_patience_outlasts_a_flat_beginning_and_ends_a_long_decline():
    x, labels = blobs(n=300, dim=30, classes=3, spread=6.0, seed=7)
    config = LogisticConfig(c_min=1e-12, c_max=1e4, c_count=33, patience=4)
    chosen = choose_and_fit(x * 0.1, labels, config=config, seed=0)
    accuracies = chosen.held_out_accuracies
    best = len(accuracies) - 1 - accuracies[::-1].index(max(accuracies))
    assert len(set(accuracies[:6])) == 1  # the features are not used yet
    assert max(accuracies) > accuracies[0]
    assert len(accuracies) < 33
    assert len(accuracies) - 1 - best == 4


def test_the_choice_is_a_function_of_the_seed():
    x, labels = blobs(n=200, spread=2.0, seed=8)
    config = LogisticConfig(c_min=1e-3, c_max=1e2, c_count=6)
    first, again, other = (
        choose_and_fit(x, labels, config=config, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.model.weights, again.model.weights)
    assert first.held_out_accuracies != other.held_out_accuracies


def test_a_fit_that_is_cut_short_is_reported(caplog):
    x, labels = blobs(seed=9)
    with caplog.at_level(logging.DEBUG, logger="dinoforge.evaluation"):
        fit_logistic(x, labels, [100.0], max_iterations=2)
    assert "stopped after 2 steps" in caplog.text


def test_the_grid_is_even_in_its_logarithm():
    grid = grid_of(LogisticConfig())
    assert grid[0] == pytest.approx(1e-6)
    assert grid[-1] == pytest.approx(1e5)
    np.testing.assert_allclose(np.diff(np.log10(grid)), 0.25)


def test_scikit_learn_agrees_on_several_labels_less_the_difficult_images():
    from sklearn.linear_model import LogisticRegression

    from dinoforge.evaluation.logistic import choose_and_fit_labels
    from dinoforge.evaluation.metrics.classification import average_precision

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    targets = (x[:, :3] + rng.normal(size=(120, 3)) > 0).astype(np.int8)
    targets[::7, 0] = -1
    targets[:, 2] = 0  # never there
    config = LogisticConfig(c_min=0.5, c_max=0.5, c_count=1)
    chosen = choose_and_fit_labels(x, targets, average_precision, config=config, seed=0)
    scores = chosen.scores(x)
    for label in range(2):
        keep = targets[:, label] >= 0
        # Both classes have weights here, whose penalty is half as large.
        peer = LogisticRegression(C=2 * 0.5, tol=1e-10, max_iter=1000)
        peer.fit(x[keep], targets[keep, label])
        np.testing.assert_allclose(scores[:, label], peer.decision_function(x), atol=1e-3)
    assert not scores[:, 2].any()
