"""Baselines by hand."""

import numpy as np

from dinoforge.evaluation.methods.dense.baselines import (
    ClassesByPosition,
    color_features,
    median_depths,
    position_features,
)


def test_the_majority_of_all_pixels_and_of_every_position():
    counts = ClassesByPosition((1, 4), num_classes=3)
    for row in ([0, 1, 255, 2], [0, 1, 255, 1], [1, 2, 255, 1], [0, 2, 255, 2]):
        counts.add(np.array([row], np.uint8))
    assert counts.majority == 1  # 5 pixels, against 3 and 4
    # Ties go to the smaller class; a position that is never labeled gets the majority of all.
    np.testing.assert_array_equal(counts.majority_per_position(), [[0, 1, 1, 1]])


def test_medians_leave_invalid_depths_out():
    maps = [np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 4.0, 0.0]]), np.array([[9.0, 99.0, 0.0]])]
    overall, per_position = median_depths(maps, min_depth=0.1, max_depth=10)
    assert overall == 3.0  # of 1, 2, 4, 9
    np.testing.assert_array_equal(per_position, [[2, 4, 3]])


def test_colors_are_means_of_cells():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = (255, 0, 51)
    features = color_features(image, (2, 2))
    assert features.shape == (2, 2, 48)
    np.testing.assert_array_equal(features[0, 0], 0)
    np.testing.assert_allclose(features[1, 1], np.tile([1.0, 0, 0.2], 16), atol=1e-6)


def test_positions_are_monomials_up_to_the_third_degree():
    features = position_features((2, 4))
    assert features.shape == (2, 4, 9)
    y, x = -0.5, 0.75
    expected = sorted([x, x**2, x**3, y, y * x, y * x**2, y**2, y**2 * x, y**3])
    np.testing.assert_allclose(np.sort(features[0, 3]), expected, rtol=1e-6)
