"""Augmented views of training images."""

import numpy as np
import pytest

from dinoforge.evaluation.methods.views import cut_view, random_views

DIGESTS = np.random.default_rng(0).integers(0, 256, (400, 32), dtype=np.uint8)


def grid(height, width):
    """An image whose pixels are their own row and column."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((height, width))
    return image


def test_views_belong_to_the_bytes_of_an_image():
    draws = random_views(DIGESTS, 3)
    assert draws.shape == (400, 41)
    np.testing.assert_array_equal(random_views(DIGESTS[7:9], 3), draws[7:9])
    assert not np.isclose(random_views(DIGESTS, 4), draws).any()


def test_sizes_and_ratios_are_those_of_a_random_resized_crop():
    views = [cut_view(grid(200, 150), row) for row in random_views(DIGESTS, 0)]
    shares = np.array([view.shape[0] * view.shape[1] for view in views]) / (200 * 150)
    ratios = np.array([view.shape[1] / view.shape[0] for view in views])
    assert 0.07 < shares.min() < 0.12
    assert 0.9 < shares.max() <= 1
    assert (ratios > 0.74).all()
    assert (ratios < 1.35).all()
    mirrored = [view[0, 0, 1] > view[0, -1, 1] for view in views]
    assert 0.4 < np.mean(mirrored) < 0.6
    tops = np.array([view[0, 0, 0] for view in views])
    assert tops.max() > 100  # anywhere in the image


@pytest.mark.parametrize("shape", [(4, 400), (400, 4), (1, 1)])
def test_of_a_long_image_a_part_of_the_center_remains(shape):
    for row in random_views(DIGESTS[:20], 0):
        view = cut_view(grid(*shape), row)
        assert min(view.shape[:2]) >= 1
        assert max(view.shape[:2]) <= max(1, 2 * min(shape))
