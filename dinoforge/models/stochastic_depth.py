"""Stochastic depth by subset: which samples of a batch a residual branch is run on.

Drawn before the first block, so that a block is a function of tensors alone: it compiles whole,
and recomputing it (activation checkpointing) meets the same subset again.
"""

from torch import Tensor

__all__ = ["BlockRows", "kept_samples"]

# Rows (int64, each once) that the attention branch and the feed-forward branch of a block run on:
# one tensor a batch.
BlockRows = tuple[list[Tensor], list[Tensor]]


def kept_samples(batch: int, drop_path: float) -> int:
    """Count the samples of a batch that a branch runs on: at least 1, none of an empty batch.

    As published the count is rounded down: 8 samples at a rate of 0.4 keep 4.
    """
    return min(max(int(batch * (1 - drop_path)), 1), batch)
