"""Sums over all ranks; with one process they are what they were given.

Losses depend on the global batch only through these, so 1 rank and N ranks give the same
numbers for the same images.
"""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["rank", "sum_over_ranks", "world_size"]


def world_size() -> int:
    """Count the ranks; 1 outside a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Tell the number of this process; 0 outside a process group."""
    return dist.get_rank() if _is_distributed() else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks (every rank must call it); returns a new tensor."""
    if not _is_distributed():
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
