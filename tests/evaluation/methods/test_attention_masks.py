"""Masks from attention: by hand."""

import numpy as np
import pytest

from dinoforge.evaluation.methods.attention_masks import attention_masks, combine_heads, score_heads


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


def test_scores_of_heads_and_both_choices():
    truth = np.zeros((4, 6), bool)
    truth[:2, :2] = True
    masks = np.zeros((3, 2, 3), bool)
    masks[0, 0, 0], masks[1, 0, :2], masks[2] = True, True, True
    scores = score_heads(masks, truth)
    assert scores == pytest.approx([1, 1 / 2, 1 / 6])
    void = np.zeros_like(truth)
    void[:, 4:] = True
    assert score_heads(masks, truth, void) == pytest.approx([1, 1 / 2, 1 / 4])
    result = combine_heads(np.array([scores, [0.2, 0.9, 0.1], [0.5, 0.3, 0.0]]))
    assert result.best.tolist() == [1, 0.9, 0.5]
    assert result.head == 0  # means 0.567, 0.567 less rounding, 0.09
    assert result.one_head.tolist() == [1, 0.2, 0.5]
