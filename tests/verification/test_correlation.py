"""The correlation of the finest details: its values, and no NaN where there is no detail."""

import numpy as np
import pytest

from dinoforge.verification.correlation import align, fine_correlation


def noise(seed, shape=(200, 240)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_equal_pictures_correlate_fully_and_negatives_oppose():
    picture = noise(0)
    assert fine_correlation(picture, picture, 1 + 0j, 0j) == (pytest.approx(1, abs=0.01), 1, 1)
    assert fine_correlation(picture, 255 - picture, 1 + 0j, 0j)[0] == pytest.approx(-1, abs=0.01)


def test_unrelated_pictures_do_not_correlate():
    assert abs(fine_correlation(noise(1), noise(2), 1 + 0j, 0j)[0]) < 0.05


def test_overlaps_are_shares_of_the_areas():
    _, share_a, share_b = fine_correlation(noise(3), noise(4), 0.5 + 0j, 10 + 10j)
    assert share_a == pytest.approx(1, abs=0.01)
    assert share_b == pytest.approx(0.25, abs=0.01)
    assert fine_correlation(noise(3), noise(4), 1 + 0j, 500 + 0j) == (0, 0, 0)


def test_flat_pictures_give_zero_not_nan():
    flat = np.full((200, 240), 200, np.uint8)
    half = noise(5)
    half[:, 100:] = 7
    for a, b in ((flat, flat), (flat, noise(6)), (half, flat), (half, half)):
        correlation = fine_correlation(a, b, 1 + 0j, 0j)[0]
        assert np.isfinite(correlation)
        assert -1.001 <= correlation <= 1.001
    assert fine_correlation(flat, flat, 1 + 0j, 0j)[0] == pytest.approx(0, abs=1e-6)


def test_a_sliver_of_overlap_shows_nothing():
    assert align(noise(7), noise(8), 1 + 0j, 235 + 0j, side=128) is None
    assert fine_correlation(noise(7), noise(7), 1 + 0j, 235 + 0j)[0] == 0


def test_aligned_pictures_show_the_same_place():
    big = np.kron(noise(9, (50, 60)), np.ones((4, 4), np.uint8))
    part = big[40:140, 80:200]
    aligned = align(big, part, 1 + 0j, -80 - 40j, side=256)
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_array_equal(aligned.a[inner], part[inner])
    np.testing.assert_array_equal(aligned.b[inner], part[inner])
    assert aligned.inside[inner].all()
