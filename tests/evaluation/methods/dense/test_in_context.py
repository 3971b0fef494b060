"""In-context segmentation against plain loops; the memory is bounded and keyed."""

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.in_context import (
    InContext,
    label_shares,
    patch_distributions,
    remember_patches,
)


def test_shares_count_the_pixels_of_every_cell():
    labels = np.array([[0, 0, 1, 255], [0, 2, 1, 255]], np.uint8)
    shares = label_shares(labels, (1, 2), num_classes=3)
    np.testing.assert_allclose(shares, [[[0.75, 0, 0.25], [0, 0.5, 0]]])


def test_cells_that_do_not_divide_the_mask_hold_the_centers_of_their_pixels():
    shares = label_shares(np.array([[0, 0, 1, 1, 1]]), (1, 2), num_classes=2)
    # The middle pixel's center is on the border and belongs to the second cell.
    np.testing.assert_allclose(shares, [[[1, 0], [0, 1]]])


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (6, 8, 8)).astype(np.uint8)
    labels[:, :, :3] = 255
    features = rng.normal(size=(6, 4, 4, 5)).astype(np.float32)
    return [
        (f, label_shares(x, (4, 4), num_classes=3)) for f, x in zip(features, labels, strict=True)
    ]


def test_the_memory_keeps_patches_that_are_labeled_and_no_more_than_allowed(images):
    everything = remember_patches(images, InContext())
    # Columns of cells: ignored, half ignored (not more than half labeled), labeled, labeled.
    assert len(everything.keys) == 6 * 4 * 2
    np.testing.assert_allclose(everything.shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(everything.keys, axis=1), 1, rtol=1e-6)
    few = remember_patches(images, InContext(memory=7))
    # The smallest draws of all, although the memory was cut after every image.
    np.testing.assert_array_equal(few.keys, everything.keys[:7])
    other = remember_patches(images, InContext(memory=7, seed=1))
    assert not np.array_equal(few.keys, other.keys)


def test_distributions_equal_a_loop_over_patches(images):
    settings = InContext(k=5, temperature=0.1)
    memory = remember_patches(images, settings)
    queries = np.random.default_rng(1).normal(size=(2, 2, 3, 5)).astype(np.float32)
    result = patch_distributions(memory, queries, settings)
    assert result.shape == (2, 3, 2, 3)
    for b, x, y in np.ndindex(2, 2, 3):
        query = queries[b, x, y] / np.linalg.norm(queries[b, x, y])
        cosines = memory.keys @ query
        nearest = np.argsort(-cosines)[:5]
        weights = np.exp(cosines[nearest] / 0.1)
        expected = weights @ memory.shares[nearest] / weights.sum()
        np.testing.assert_allclose(result[b, :, x, y], expected, atol=1e-5)


def test_a_patch_without_content_has_no_distribution(images):
    memory = remember_patches(images, InContext())
    result = patch_distributions(memory, np.zeros((1, 1, 1, 5), np.float32), InContext())
    np.testing.assert_array_equal(result, np.zeros((1, 3, 1, 1)))


def test_masks_without_a_labeled_patch_are_refused(images):
    unlabeled = [(features, np.zeros_like(shares)) for features, shares in images]
    with pytest.raises(UsageError, match="no patch is labeled on more than 50% of its pixels"):
        remember_patches(unlabeled, InContext())
