"""Exchanges between ranks that gradients pass through; without a process group nothing happens."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "has_others", "sum_with_gradient"]


def sum_with_gradient(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks; its gradient is the sum of the ranks' gradients.

    Every rank must call it, and the backward pass.
    """
    return cast("Tensor", _Sum.apply(x)) if has_others() else x


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all ranks, in their order; each must have the same number.

    A row's gradient is the sum of what all ranks have for it; every rank must call both passes.
    """
    return cast("Tensor", _Gather.apply(x)) if has_others() else x


def has_others() -> bool:
    """Return True in a process group of several ranks."""
    return dist.is_initialized() and dist.get_world_size() > 1


def _sum(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first = dist.get_rank() * ctx.rows
        return _sum(gradients[0])[first : first + ctx.rows]
