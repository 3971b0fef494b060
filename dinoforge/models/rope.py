"""Rotary positions of DINOv3 (Siméoni et al. 2025, section 3.2; Su et al. 2021; Heo et al. 2024).

Queries and keys of patches are rotated by angles of their row and column; class and register tokens
are not. Coordinates are those of the patch centers, each axis scaled to [-1, 1] on its own, so that
any grid works without resampling. The random shift, jitter and rescaling of its training are not
here.

Shapes: X rows, Y columns, N = X * Y patches, E channels per head.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["periods", "rotate", "rotation"]

_BASE = 100.0  # ratio of the longest period (excluded) to the shortest, 1


def periods(channels: int) -> Tensor:
    """Return the periods of the angles, float64 ``[E / 4]``: a quarter of the channels each."""
    steps = torch.arange(channels // 4, dtype=torch.float64)
    return _BASE ** (steps / (channels // 4))


@lru_cache(maxsize=256)
def rotation(
    rows: int, columns: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return cosine and sine of the angles of every patch, ``[2, N, E / 2]``; cached.

    Row angles come first, then those of columns; ``E`` is a multiple of 4.
    """
    # Outside of all modes, as in `position`.
    with torch.inference_mode(False), _disable_current_modes():
        axes = [(torch.arange(size).double() + 0.5) / size * 2 - 1 for size in (rows, columns)]
        centers_N2 = torch.cartesian_prod(*axes)
        angles_N2P = 2 * math.pi * centers_N2[:, :, None] / periods(channels)
        angles = angles_N2P.flatten(1)
        return torch.stack([angles.cos(), angles.sin()]).to(device, dtype)


def rotate(x: Tensor, rotation_2NP: Tensor) -> Tensor:
    """Rotate the last N tokens of ``[..., tokens, E]``, in the dtype of ``x``.

    Channel i and channel i + E / 2 are a pair that turns by angle i.
    """
    first_patch = x.shape[-2] - rotation_2NP.shape[1]
    first, second = x[..., first_patch:, :].chunk(2, dim=-1)
    cosine, sine = rotation_2NP
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat([x[..., :first_patch, :], torch.cat(turned, dim=-1).to(x.dtype)], dim=-2)
