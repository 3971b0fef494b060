"""Boxes: by hand, and against counting pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.evaluation.metrics.boxes import box_iou, is_localized, mask_box

sides = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
boxes = st.tuples(sides, sides).map(lambda xy: [xy[0][0], xy[1][0], xy[0][1] + 1, xy[1][1] + 1])


def pixels(box):
    mask = np.zeros((12, 12), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@given(boxes, st.lists(boxes, min_size=1, max_size=3))
def test_iou_counts_pixels(box, others):
    a = pixels(box)
    expected = [(a & pixels(b)).sum() / (a | pixels(b)).sum() for b in others]
    assert box_iou(box, others) == pytest.approx(expected)
    assert mask_box(a) == tuple(box)


def test_any_object_counts_from_half():
    box = [0, 0, 10, 10]
    assert is_localized(box, [[50, 50, 60, 60], [0, 0, 10, 5]])  # exactly 0.5
    assert not is_localized(box, [[0, 0, 10, 4.9]])
    assert not is_localized([3, 3, 3, 3], [[3, 3, 3, 3]])  # empty boxes
    with pytest.raises(AssertionError, match="without boxes"):
        is_localized(box, np.zeros((0, 4)))
