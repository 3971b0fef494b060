"""LOST and TokenCut: against the published formulas, and on graphs whose answer is known."""

import numpy as np
import pytest
import scipy.linalg

from dinoforge.evaluation.methods import discovery
from dinoforge.evaluation.methods.discovery import choose_features, lost, pixel_box, tokencut
from dinoforge.evaluation.metrics.boxes import mask_box
from dinoforge.evaluation.settings import LostConfig, TokenCutConfig


def scene(rows=14, columns=20, *, noise=0.3, seed=0):
    """Features of a small object before a background: opposite directions, and noise."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=16)
    features = noise * rng.normal(size=(rows, columns, 16)) + direction
    features[4:9, 6:12] -= 2 * direction
    return features


def test_both_methods_localize_an_object():
    expected = (6, 4, 12, 9)
    result = lost(scene(), LostConfig(k_patches=30))
    assert mask_box(result.mask_XY) == expected
    assert 0.7 < result.share_linked < 0.9
    result = tokencut(scene(), TokenCutConfig())
    assert mask_box(result.mask_XY) == expected
    assert result.mask_XY.sum() == 30
    assert not result.is_degenerate


def test_features_that_all_resemble_each_other_are_degenerate():
    features = np.abs(scene()) + 5
    for result in (lost(features, LostConfig()), tokencut(features, TokenCutConfig())):
        assert result.share_linked == 1
        assert result.is_degenerate
        assert result.mask_XY.all()  # the whole image, without any error
    apart = np.eye(12).reshape(3, 4, 12)  # no pair is linked
    for result in (lost(apart, LostConfig()), tokencut(apart, TokenCutConfig())):
        assert result.share_linked == 0
        assert result.is_degenerate
    centered = choose_features("keys_centered", scene() + 100, features)
    assert centered.mean(axis=(0, 1)) == pytest.approx(np.zeros(16), abs=1e-9)
    assert not lost(centered, LostConfig(k_patches=30)).is_degenerate
    assert choose_features("tokens", centered, features) is features
    assert choose_features("keys", centered, features) is centered


def test_ties_for_the_seed_are_counted_and_the_first_wins():
    features = np.full((3, 4, 2), [1.0, 0.0])
    features[1, 1:3] = [-1.0, 0.0]
    result = lost(features, LostConfig())
    assert (result.seed, result.seed_ties) == (5, 2)
    assert mask_box(result.mask_XY) == (1, 1, 3, 2)
    result = tokencut(features, TokenCutConfig())
    assert (result.seed, result.seed_ties) == (5, 2)
    assert lost(features * 0, LostConfig()).mask_XY.sum() == 1  # a black image


def test_only_the_part_that_is_connected_with_the_seed_is_the_object():
    features = np.full((3, 5, 2), [1.0, 0.0])
    features[0, 0], features[2, 3:] = [-1.0, 0.0], [-1.0, 0.0]
    result = lost(features, LostConfig())
    assert result.mask_XY.sum() == 1
    assert result.mask_XY[0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_second_eigenvector_solves_the_published_problem(seed):
    features = scene(10, 12, noise=1.5, seed=seed).reshape(120, 16)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.where(unit @ unit.T > 0.2, 1.0, 1e-5)
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees)
    config = TokenCutConfig()
    for dense_up_to in (1000, 1):
        vector = discovery.second_eigenvector(
            unit @ unit.T > 0.2, TokenCutConfig(dense_up_to=dense_up_to)
        )
        sign = np.sign(vector @ vectors[:, 1])
        assert sign * vector == pytest.approx(vectors[:, 1], abs=1e-6)
    assert config.tau == 0.2
    assert values[1] < values[2]


def test_eigenvectors_that_do_not_converge_are_computed_densely(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(discovery, "_iterate", lambda *_: None)
    result = tokencut(scene(), TokenCutConfig(dense_up_to=1))
    assert mask_box(result.mask_XY) == (6, 4, 12, 9)
    assert "did not converge on 280 patches" in caplog.text


def test_a_large_residual_is_not_accepted():
    matrix = np.diag(np.linspace(0, 1, 300))
    assert discovery._iterate(matrix, np.eye(300)[-1], tolerance=1e-30) is None


def test_boxes_end_at_the_border_of_an_image_that_was_padded():
    mask = np.zeros((4, 5), bool)
    mask[2:, 1:] = True
    assert pixel_box(mask, 16, 60, 75) == (16, 32, 75, 60)
    assert pixel_box(mask, 16, 64, 80) == (16, 32, 80, 64)
