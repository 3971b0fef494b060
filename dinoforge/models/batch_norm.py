"""Batch normalization whose statistics are those of all ranks, on any device.

torch's ``SyncBatchNorm`` runs on GPUs only, and shares statistics in float32. Tensors have the
names of torch's layers.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoforge.exchange import has_others, sum_with_gradient

__all__ = ["BatchNorm1d", "BatchNorm2d"]


class _Shared(_BatchNorm):
    """Statistics of a step over all ranks, which must all call this in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the channels of ``[B, C, ...]``."""
        if not (self.training and has_others()):
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [dim for dim in range(x.ndim) if dim != 1]
        count = sum_with_gradient(values.new_tensor(values.numel() / values.shape[1]))
        mean_C = sum_with_gradient(values.sum(dim=dims)) / count
        shape = [1, -1, *[1] * (x.ndim - 2)]
        centered = values - mean_C.view(shape)
        variance_C = sum_with_gradient(centered.square().sum(dim=dims)) / count
        self._track(mean_C.detach(), variance_C.detach() * count / (count - 1).clamp(min=1))
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        return (centered * scale_C.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance_C.to(self.running_var.dtype), share)


class BatchNorm1d(_Shared, nn.BatchNorm1d):
    """Of rows ``[B, C]``."""


class BatchNorm2d(_Shared, nn.BatchNorm2d):
    """Of images ``[B, C, H, W]``."""
