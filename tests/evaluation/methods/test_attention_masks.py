"""Scores of masks from attention: by hand."""

import numpy as np
import pytest

from dinoforge.evaluation.methods.attention_masks import combine_heads, score_heads


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
