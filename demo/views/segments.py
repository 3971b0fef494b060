"""Segmentation by clicks, without labels or training, in images and through frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.views.regions import Features, similarity_map, unit

__all__ = ["follow_frames", "segment_by_clicks"]

_TEMPERATURE = 0.1


def segment_by_clicks(
    features_XYD: Features,
    positive: NDArray[np.floating],
    negative: NDArray[np.floating] | Sequence[float] = (),
) -> NDArray[np.float64]:
    """Return the probability that a patch belongs to what was clicked, ``[X, Y]``.

    The softmax, at a temperature of 0.1, of the largest cosine to a positive vector and the largest
    to a negative one. ``positive`` and ``negative`` ``[n, D]`` are features of clicked patches, of
    this image or of another ("find this everywhere"). Without a negative one, the mean of the half
    of the image that is less similar to the positive ones takes its place.

    Raises
    ------
    ValueError
        If there is no positive vector.
    """
    if not len(positive):
        raise ValueError("no positive click")
    inside = _nearest(features_XYD, positive)
    if not len(negative):
        is_other = inside <= np.median(inside)
        negative = unit(features_XYD)[is_other].mean(axis=0)[None]
    outside = _nearest(features_XYD, np.asarray(negative))
    return 1 / (1 + np.exp((outside - inside) / _TEMPERATURE))


def follow_frames(
    features: Sequence[Features], first_XY: NDArray[np.floating]
) -> list[NDArray[np.float64]]:
    """Return the probability of patches of the second frame, the third, and so on, ``[X, Y]``.

    ``features`` of all frames are on one grid, ``first_XY`` are the probabilities of the first
    frame, such as those of `segment_by_clicks`. Each patch takes those of the most similar patches
    near its place in the first and in the latest frames; see `propagate`.

    Raises
    ------
    ValueError
        If the grids differ.
    """
    import torch

    from dinoforge.neighbors.propagation import propagate

    if any(frame.shape[:2] != first_XY.shape for frame in features):
        raise ValueError("frames of several sizes")
    first_XYC = torch.from_numpy(np.stack([1 - first_XY, first_XY], axis=-1)).float()
    frames = (torch.from_numpy(np.asarray(frame, np.float32)) for frame in features)
    return [labels[..., 1].double().numpy() for labels in propagate(frames, first_XYC)]


def _nearest(features_XYD: Features, vectors_nD: NDArray[Any]) -> NDArray[np.float64]:
    return np.max([similarity_map(features_XYD, vector) for vector in vectors_nD], axis=0)
