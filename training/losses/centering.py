"""Centering: teacher scores minus their running mean, then a softmax (Caron et al. 2021).

Shapes: M samples, K prototypes.
"""

import torch
from torch import Tensor, nn

from dinoforge.training.distributed.ranks import sum_over_ranks

__all__ = ["Center"]


class Center(nn.Module):
    """Running mean of the teacher's scores, a buffer; an update takes effect at the next step.

    Parameters
    ----------
    prototypes : int
        K.
    momentum : float
        Share of the old center kept by an update.
    mean_of_ranks : bool
        Take the mean of the ranks' means (the published patch center, where ranks have
        different numbers of masked patches) instead of the mean over all samples.
    """

    center: Tensor

    def __init__(
        self, prototypes: int, *, momentum: float = 0.9, mean_of_ranks: bool = False
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.mean_of_ranks = mean_of_ranks
        self.register_buffer("center", torch.zeros(1, prototypes))

    @torch.no_grad()
    def targets(self, scores_MK: Tensor, temperature: float) -> Tensor:
        """Return softmax((scores - center) / temperature)."""
        scores_MK = scores_MK.to(torch.promote_types(scores_MK.dtype, torch.float32))
        return ((scores_MK - self.center) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def update(self, scores_MK: Tensor) -> None:
        """Move the center towards the mean of the scores; every rank must call it."""
        scores_MK = scores_MK.to(self.center.dtype)
        total = scores_MK.sum(dim=0, keepdim=True)
        count = total.new_tensor(float(len(scores_MK)))
        if self.mean_of_ranks:  # of ranks with samples
            total, count = total / count.clamp(min=1), count.clamp(max=1)
        total, count = sum_over_ranks(total), sum_over_ranks(count)
        # Without samples on any rank the center is unchanged.
        mean = torch.where(count > 0, total / count.clamp(min=1), self.center)
        self.center.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
