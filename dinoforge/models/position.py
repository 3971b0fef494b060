"""Position embeddings on another grid than the native one.

Four ways are in use for the same weights; a wrong one moves the patch tokens by 4 to 22 %
(measured on small nets), so the way is a setting of the checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["interpolate_positions"]

# DINOv2 adds 0.1 to the wanted grid: without it floor(37 * (39 / 37)) is 38 and the grid wrong.
_OFFSET = 0.1


def interpolate_positions(positions_1ND: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Resample ``[1, 1 + M * M, D]`` position embeddings to ``height x width`` patches.

    Parameters
    ----------
    positions_1ND : Tensor
        Class token first, then the native grid row by row; resampled in float32 (float64
        stays) and returned in its own dtype. Differentiable.
    height, width : int
        Wanted grid, patches.
    mode : str
        ``offset``, ``offset_antialias``, ``size_antialias`` or ``size``; see `VitConfig`.
    """
    side = round((positions_1ND.shape[1] - 1) ** 0.5)
    if height == side and width == side:
        return positions_1ND
    exact = positions_1ND.to(torch.promote_types(positions_1ND.dtype, torch.float32))
    grid_1DMM = exact[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    antialias = mode.endswith("antialias")
    if mode.startswith("offset"):
        scale = ((height + _OFFSET) / side, (width + _OFFSET) / side)
        grid = F.interpolate(grid_1DMM, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        grid = F.interpolate(grid_1DMM, size=(height, width), mode="bicubic", antialias=antialias)
    assert grid.shape[-2:] == (height, width), "position grid came out in the wrong size"
    resampled = torch.cat([exact[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return resampled.to(positions_1ND.dtype)
