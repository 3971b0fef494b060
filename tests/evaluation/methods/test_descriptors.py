"""Whitening: formulas, invariants, and what cannot be learned."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.descriptors import learn_whitening


def correlated(seed=0, n=200, d=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@pytest.mark.parametrize("dim", [None, 3])
def test_centered_whitening_is_that_of_scikit_learn(dim):
    rows = correlated()
    whitening = learn_whitening(rows, learned_on="made", form="centered", dim=dim)
    expected = PCA(n_components=dim, whiten=True, svd_solver="full").fit(rows).transform(rows)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    unit = whitening.apply(rows)
    assert unit.shape == (200, dim or 6)
    np.testing.assert_allclose(unit @ unit.T, expected @ expected.T, atol=1e-5)


def test_the_published_form_takes_the_second_moment_about_zero():
    rows = correlated()
    whitening = learn_whitening(rows, learned_on="made", form="uncentered")
    whitened = rows @ whitening.projection
    np.testing.assert_allclose(whitened.T @ whitened / len(rows), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(whitening.mean, rows.mean(axis=0))


def test_directions_without_spread_are_not_blown_up():
    rows = correlated()
    rows[:, 5] = 0.0
    whitening = learn_whitening(rows, learned_on="made", form="centered")
    assert np.isfinite(whitening.projection).all()
    assert np.abs(whitening.apply(rows)).max() <= 1.0


def test_a_whitening_names_its_set():
    whitening = learn_whitening(correlated(), learned_on="animals4", dim=2)
    assert (whitening.learned_on, whitening.num_images) == ("animals4", 200)
    assert (whitening.form, whitening.projection.shape) == ("centered", (6, 2))


@pytest.mark.parametrize(("num", "dim"), [(1, None), (6, 6), (200, 7), (200, 0)])
def test_too_few_images_or_too_many_dimensions_are_refused(num, dim):
    text = rf"cannot learn a whitening to {dim if dim is not None else 6} dimensions from {num} "
    with pytest.raises(UsageError, match=text):
        learn_whitening(correlated(n=num), learned_on="made", dim=dim)
