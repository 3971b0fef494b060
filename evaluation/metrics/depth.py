"""Monocular depth: errors of an image on its valid pixels, averaged over images, never pooled.

Definitions of Eigen et al. 2014 as the Monocular-Depth-Estimation-Toolbox computes them (DINOv2
evaluates with it). Depths are in meters. Shapes: H x W pixels, n images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.sizes import check_size

__all__ = [
    "CROPS",
    "DEPTH_METRICS",
    "MAX_DEPTH",
    "MIN_DEPTH",
    "crop_mask",
    "depth_metrics",
    "kitti_benchmark_crop",
    "mean_depth_metrics",
]

DEPTH_METRICS = ("a1", "a2", "a3", "abs_rel", "sq_rel", "rmse", "log10", "rmse_log", "silog")

MIN_DEPTH = 1e-3  # meters
MAX_DEPTH = {"nyu": 10.0, "kitti": 80.0}  # meters, by data set

# Rows and columns that count: first, end, and the side that they refer to.
CROPS: Mapping[str, tuple[tuple[float, float, int], tuple[float, float, int]]] = {
    "none": ((0, 1, 1), (0, 1, 1)),
    "nyu_eigen": ((45, 471, 480), (41, 601, 640)),
    "kitti_garg": ((0.40810811, 0.99189189, 1), (0.03594771, 0.96405229, 1)),
    "kitti_eigen": ((0.3324324, 0.91351351, 1), (0.0359477, 0.96405229, 1)),
}


def crop_mask(crop: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels that count under one of `CROPS`, bool ``[H, W]``.

    NYU's crop is given in pixels: at other sizes its edges are rounded, half up. KITTI's crops are
    shares that are cut to whole pixels, as published.
    """
    add = 0.5 if crop == "nyu_eigen" else 0.0
    rows, columns = (
        slice(int(first * side / whole + add), int(end * side / whole + add))
        for (first, end, whole), side in zip(CROPS[crop], (height, width), strict=True)
    )
    mask = np.zeros((height, width), np.bool_)
    mask[rows, columns] = True
    return mask


def kitti_benchmark_crop(height: int, width: int, where: str = "image") -> tuple[slice, slice]:
    """Return the 352 x 1216 pixels of a KITTI image that networks see: bottom, center.

    Raises
    ------
    UsageError
        If the image ``where`` is smaller.
    """
    top, left = height - 352, (width - 1216) // 2
    if top < 0 or left < 0:
        raise UsageError(
            what=f"{height} x {width} pixels, less than KITTI's crop of 352 x 1216",
            where=where,
            do="give the original images of KITTI",
        )
    return slice(top, height), slice(left, left + 1216)


def depth_metrics(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    *,
    min_depth: float = MIN_DEPTH,
    max_depth: float,
    crop: str = "none",
    where: str = "depth map",
) -> dict[str, float]:
    """Return `DEPTH_METRICS` of an image, computed in float64.

    Pixels count whose true depth is strictly between ``min_depth`` and ``max_depth``, inside the
    crop. Predictions are clamped to this range first: logarithms and ratios are then finite.
    ``silog`` is 100 times the standard deviation of the log ratio; a variance that rounding makes
    negative is 0. Without a pixel that counts, all values are NaN.

    Raises
    ------
    UsageError
        If the sizes differ.
    """
    check_size(truth.shape, predicted.shape, what="depth map", where=where)
    counted = (truth > min_depth) & (truth < max_depth) & crop_mask(crop, *truth.shape)
    if not counted.any():
        return dict.fromkeys(DEPTH_METRICS, float("nan"))
    t = truth[counted].astype(np.float64)
    p = np.clip(predicted[counted].astype(np.float64), min_depth, max_depth)
    assert np.isfinite(p).all(), "a predicted depth is NaN"
    ratio = np.maximum(t / p, p / t)
    squares = (t - p) ** 2
    log_ratio = np.log(p) - np.log(t)
    variance = (log_ratio**2).mean() - log_ratio.mean() ** 2
    values = (
        *((ratio < 1.25**power).mean() for power in (1, 2, 3)),
        (np.abs(t - p) / t).mean(),
        (squares / t).mean(),
        np.sqrt(squares.mean()),
        np.abs(log_ratio).mean() / np.log(10),
        np.sqrt((log_ratio**2).mean()),
        100 * np.sqrt(max(variance, 0.0)),
    )
    return dict(zip(DEPTH_METRICS, map(float, values), strict=True))


def mean_depth_metrics(images: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Average metrics over images, without those that have no valid pixel.

    Parameters
    ----------
    images : ndarray of float64
        ``[n, ..., M]``, all NaN without a valid pixel.

    Returns
    -------
    means : ndarray of float64
        ``[..., M]``, NaN if no image has a valid pixel.
    is_valid : ndarray of bool
        ``[n]``.
    """
    axes = tuple(range(1, images.ndim))
    is_valid: NDArray[np.bool_] = np.any(~np.isnan(images), axis=axes)
    if not is_valid.any():
        return np.full(images.shape[1:], np.nan), is_valid
    return images[is_valid].mean(axis=0), is_valid
