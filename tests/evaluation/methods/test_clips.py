"""Features of videos from those of their frames."""

import numpy as np

from dinoforge.evaluation.methods.clips import frame_indices, join_frames


def test_frames_are_the_middles_of_equal_parts():
    assert frame_indices(80) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert frame_indices(8) == list(range(8))
    assert frame_indices(9, 3) == [1, 4, 7]
    assert frame_indices(3) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert frame_indices(1) == [0] * 8
    assert all(frame_indices(n)[-1] < n for n in range(1, 200))


def test_frames_are_averaged_or_kept_in_order():
    features = np.arange(12.0).reshape(2, 3, 2)
    assert join_frames(features, "mean").tolist() == [[2, 3], [8, 9]]
    assert join_frames(features, "concatenate").tolist() == [list(range(6)), list(range(6, 12))]
