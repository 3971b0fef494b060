"""Resample position embeddings to another grid than the native one.

Four modes are in use for the same weights; a wrong one changes the patch tokens by 4 to 22 %
(measured on small nets), so the mode is a setting of the checkpoint.

Bicubic resampling is separable and linear: here two products with small matrices, ``rows @ grid @
columns.T``, computed once per size. Unlike `F.interpolate`, whose backward pass on GPUs adds in
random order, the products are deterministic.

Shapes: M native side, X rows, Y columns, D width.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["interpolate_positions", "resampling_matrix"]

Matrix = npt.NDArray[np.floating]

# DINOv2 adds 0.1 to the requested grid: otherwise floor(37 * (39 / 37)) is 38, a wrong grid.
_OFFSET = 0.1


def interpolate_positions(positions_1ND: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Resample ``[1, 1 + M * M, D]`` position embeddings to ``height x width`` patches.

    The class token comes first and is never changed, then the native grid row by row. Computed in
    float32 (float64 stays), returned in its own dtype. Differentiable. ``mode`` is one of
    `PositionMode`.
    """
    side = math.isqrt(positions_1ND.shape[1] - 1)
    if height == side and width == side:
        return positions_1ND
    dtype = torch.promote_types(positions_1ND.dtype, torch.float32)
    rows_XM = _matrix(side, height, mode, positions_1ND.device, dtype)
    columns_YM = _matrix(side, width, mode, positions_1ND.device, dtype)
    with torch.autocast(positions_1ND.device.type, enabled=False):
        exact_1ND = positions_1ND.to(dtype)
        grid_MMD = exact_1ND[0, 1:].unflatten(0, (side, side))
        # Rows first: [X, M] @ [M, M * D], then columns of every row: [Y, M] @ [X, M, D].
        grid_XMD = (rows_XM @ grid_MMD.flatten(1)).unflatten(1, (side, -1))
        grid_XYD = columns_YM @ grid_XMD
        resampled = torch.cat([exact_1ND[:, :1], grid_XYD.flatten(0, 1)[None]], dim=1)
    return resampled.to(positions_1ND.dtype)


@lru_cache(maxsize=256)
def _matrix(
    size_in: int, size_out: int, mode: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    antialias = mode.endswith("antialias")
    offset = _OFFSET if mode.startswith("offset") else 0.0
    weights = resampling_matrix(size_in, size_out, offset=offset, antialias=antialias)
    # Outside of all modes: a cached inference or fake tensor could not be used in training.
    with torch.inference_mode(False), _disable_current_modes():
        return torch.from_numpy(weights).to(device, dtype)


def resampling_matrix(
    size_in: int, size_out: int, *, offset: float = 0.0, antialias: bool = False
) -> Matrix:
    """Return the weight of every input sample in every output sample of bicubic resampling.

    The two kernels of torch: without antialias, Keys' cubic with a = -0.75 on four taps, border
    samples repeated; with antialias, Pillow's, a = -0.5, widened when shrinking and renormalized
    at the borders (Keys 1981, "Cubic convolution interpolation").

    The step between samples is ``size_in / (size_out + offset)``. Returns float64
    ``[size_out, size_in]``; every row sums to 1.
    """
    step = 1.0 / ((size_out + offset) / size_in)
    centers = step * (np.arange(size_out) + 0.5)
    if antialias and size_in == size_out:
        return np.eye(size_in)  # torch does not resample such an axis, for any offset
    if antialias:
        return _antialiased(centers, size_in, max(step, 1.0))
    first = np.floor(centers - 0.5).astype(int) - 1
    taps = first[:, None] + np.arange(4)
    weights = _cubic(taps + 0.5 - centers[:, None], -0.75)
    matrix = np.zeros((size_out, size_in))
    rows = np.broadcast_to(np.arange(size_out)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, size_in - 1)), weights)
    return matrix


def _antialiased(centers: Matrix, size_in: int, stretch: float) -> Matrix:
    samples = np.arange(size_in)
    first = np.trunc(centers - 2 * stretch + 0.5).clip(0)
    end = np.trunc(centers + 2 * stretch + 0.5).clip(None, size_in)
    inside = (samples >= first[:, None]) & (samples < end[:, None])
    weights = _cubic((samples + 0.5 - centers[:, None]) / stretch, -0.5) * inside
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(distance: Matrix, a: float) -> Matrix:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
