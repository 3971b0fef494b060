"""Which tokens a linear depth head sees; without torch, so that stages plan with it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DEPTH_HEADS", "DepthInput", "depth_input"]

DEPTH_HEADS = ("v2-lin1", "v2-lin4", "v3-lin1", "v3-lin4")


@dataclass(frozen=True)
class DepthInput:
    """Which features a depth head sees."""

    blocks: tuple[int, ...]
    final_norm: bool  # the backbone's last LayerNorm on the features of every block
    class_token: bool  # repeated beside every patch
    batch_norm: bool


def depth_input(form: Literal["v2", "v3"], num_blocks: Literal[1, 4], depth: int) -> DepthInput:
    """Return the input of lin.1 or lin.4 for a backbone of ``depth`` blocks.

    ``v2`` (DINOv2): raw outputs with class tokens, no normalization; the four blocks end quarters
    of the network, except that of 24 blocks the first is 4. ``v3`` (DINOv3): normed outputs of the
    last blocks, batch normalization, no class token. Of fewer than four blocks all are taken.
    """
    last = tuple(range(max(depth - num_blocks, 0), depth))
    if form == "v3":
        return DepthInput(last, final_norm=True, class_token=False, batch_norm=True)
    quarters = tuple((part + 1) * depth // 4 - 1 for part in range(4))
    if depth == 24:
        quarters = (4, 11, 17, 23)  # as released
    blocks = quarters if num_blocks == 4 and depth >= 4 else last
    return DepthInput(blocks, final_norm=False, class_token=True, batch_norm=False)
