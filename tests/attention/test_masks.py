"""Masks from attention: by hand, and the share that they hold."""

import numpy as np
import pytest

from dinoforge.attention.masks import attention_masks


def test_the_patches_with_most_of_the_mass_are_kept():
    attention = np.array([[[1.0, 2], [3, 4]], [[4, 4], [1, 1]]])
    assert attention_masks(attention, mass=0.6).tolist() == [
        [[False, False], [True, True]],  # 1 and 2 of 10 are left out: 0.3 <= 0.4
        [[True, True], [False, False]],
    ]
    assert attention_masks(attention, mass=0.95).tolist()[0] == [[True, True], [True, True]]
    assert attention_masks(attention, mass=0.3).tolist()[0] == [[False, False], [False, True]]
    assert attention_masks(attention[:1] * 1e-3).tolist() == attention_masks(attention[:1]).tolist()


def test_of_equal_patches_the_first_are_left_out():
    assert attention_masks(np.ones((1, 1, 5)), mass=0.5).tolist() == [
        [[False, False, True, True, True]]
    ]


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.6, 0.95])
def test_a_mask_holds_the_share_and_would_not_without_its_least_patch(mass):
    attention = np.random.default_rng(0).exponential(size=(4, 7, 5))
    masks = attention_masks(attention, mass=mass)
    for one, mask in zip(attention / attention.sum(axis=(1, 2), keepdims=True), masks, strict=True):
        assert one[mask].min() > one[~mask].max()
        assert one[mask].sum() >= mass > one[mask].sum() - one[mask].min()
