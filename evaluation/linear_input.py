"""What a linear probe sees: class tokens of the last blocks, and the mean of the last patch tokens.

For probes of one's own on several blocks; the suite's protocols take the last block's features.
Shapes: B images, N patch tokens, D channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["linear_input"]


def linear_input(
    layers: Sequence[tuple[Tensor, Tensor]], *, blocks: int, average_patches: bool
) -> Tensor:
    """Join features for a linear probe as DINOv2 does (its code; section 7.1).

    Parameters
    ----------
    layers : sequence of (Tensor, Tensor)
        Patch tokens ``[B, N, D]`` and class token ``[B, D]`` of the last blocks, oldest first, as
        `VisionTransformer.get_intermediate_layers` returns them (final LayerNorm applied).
    blocks : int
        Number of last blocks whose class tokens are joined; at most ``len(layers)``.
    average_patches : bool
        Append the mean of the last block's patch tokens; registers are not among them.

    Returns
    -------
    Tensor
        ``[B, blocks * D]``, or ``[B, (blocks + 1) * D]``.
    """
    assert 1 <= blocks <= len(layers), f"{blocks} blocks of {len(layers)}"
    parts = [class_BD for _, class_BD in layers[-blocks:]]
    if average_patches:
        parts.append(layers[-1][0].mean(dim=1))
    return torch.cat(parts, dim=-1)
