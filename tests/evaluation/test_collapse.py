import math

import numpy as np
import pytest

from dinoforge.evaluation.collapse import (
    alpha_req,
    covariance_spectrum,
    effective_rank,
    feature_std,
    mean_cosine,
    participation_ratio,
    rankme,
    signs_of_collapse,
    uniformity,
)


def healthy(n=400, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_healthy_features_show_no_sign():
    signs = signs_of_collapse(healthy())
    assert signs["rankme"] > 15.5
    assert signs["feature_std"] == pytest.approx(1.0, abs=0.02)
    assert signs["mean_cosine"] == pytest.approx(0.0, abs=0.01)
    assert signs["uniformity"] < -3
    assert signs["participation_ratio"] > 14


def test_features_at_one_point_show_in_the_spread_not_in_the_rank_of_the_covariance():
    point = healthy(1, seed=1) + 1e-4 * healthy(seed=2)
    signs = signs_of_collapse(point)
    assert signs["feature_std"] < 1e-3
    assert signs["mean_cosine"] == pytest.approx(1.0, abs=1e-6)
    assert signs["uniformity"] == pytest.approx(0.0, abs=1e-6)
    assert signs["rankme"] < 1.01
    assert signs["effective_rank"] > 15


def test_features_in_a_plane_show_in_the_rank():
    plane = healthy(dim=2) @ healthy(2, 16, seed=3)
    signs = signs_of_collapse(plane)
    assert signs["rankme"] < 2.01
    assert signs["participation_ratio"] < 2.01
    assert signs["feature_std"] > 0.8


def test_exactly_constant_features_have_no_spectrum():
    signs = signs_of_collapse(np.ones((20, 4), np.float32))
    assert signs["feature_std"] == 0.0
    assert signs["mean_cosine"] == pytest.approx(1.0)
    assert math.isnan(signs["effective_rank"])
    assert math.isnan(signs["participation_ratio"])
    assert math.isnan(signs["alpha_req"])


def test_all_zero_features_are_not_a_number_rather_than_an_error():
    signs = signs_of_collapse(np.zeros((5, 3), np.float32))
    assert math.isnan(signs["rankme"])
    assert signs["uniformity"] == 0.0


def test_even_spectra_fill_every_dimension():
    assert rankme(np.eye(7)) == pytest.approx(7.0, abs=1e-4)
    assert effective_rank(np.ones(5)) == pytest.approx(5.0)
    assert participation_ratio(np.array([1.0, 1.0, 0.0])) == pytest.approx(2.0)


def test_alpha_is_the_exponent_of_a_power_law():
    spectrum = np.arange(1, 40) ** -1.3
    assert alpha_req(spectrum, 1, 39) == pytest.approx(1.3)
    assert alpha_req(spectrum, 5, 20) == pytest.approx(1.3)
    assert math.isnan(alpha_req(spectrum, 3, 3))


def test_the_spectrum_is_that_of_the_covariance():
    rows = healthy(50, 4).astype(np.float64)
    truth = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
    np.testing.assert_allclose(covariance_spectrum(rows), truth, rtol=1e-10)


def test_pairs_are_counted_without_an_image_and_itself(monkeypatch):
    import dinoforge.evaluation.collapse

    unit = healthy(9, 3).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    distances = np.array([np.square(unit[i] - unit[j]).sum() for i, j in pairs])
    truth = math.log(np.exp(-2 * distances).mean())
    cosines = np.mean([unit[i] @ unit[j] for i, j in pairs])
    monkeypatch.setattr(dinoforge.evaluation.collapse, "_ROWS_AT_ONCE", 4)
    assert uniformity(unit) == pytest.approx(truth, rel=1e-12)
    assert mean_cosine(unit) == pytest.approx(cosines, rel=1e-9)


def test_spread_is_counted_in_units_of_the_sphere():
    corners = np.concatenate([np.eye(8), -np.eye(8)])
    assert feature_std(corners) == pytest.approx(math.sqrt(16 / 15))
