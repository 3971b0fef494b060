"""Features of videos from features of their frames, for a linear classifier.

DINOv2's protocol (Oquab et al. 2023, section 7.2): 8 frames evenly over the video; the mean of
their class tokens for UCF-101 and Kinetics-400, their concatenation for Something-Something v2,
where the order matters. The classifier is that of images.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUM_FRAMES", "Join", "frame_indices", "join_frames"]

NUM_FRAMES = 8
Join = Literal["mean", "concatenate"]


def frame_indices(num_frames: int, count: int = NUM_FRAMES) -> list[int]:
    """Choose the middle frames of ``count`` equal parts of a video; short videos repeat frames."""
    assert num_frames > 0, "a video without frames"
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def join_frames(features_nTD: NDArray[np.floating], join: Join) -> NDArray[np.floating]:
    """Join the features of the frames of videos, ``[n, T, D]``: ``[n, D]`` or ``[n, T * D]``."""
    if join == "mean":
        return features_nTD.mean(axis=1)
    return features_nTD.reshape(len(features_nTD), -1)
