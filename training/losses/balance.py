"""Balance of the teacher: Sinkhorn-Knopp or centering keep it from using few prototypes.

Shapes: M samples of this rank, K prototypes.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinoforge.training.distributed.ranks import sum_over_ranks, world_size
from dinoforge.training.precision import at_least_float32

__all__ = ["Center", "sinkhorn_knopp"]


@torch.no_grad()
def sinkhorn_knopp(scores_MK: Tensor, temperature: float, *, iterations: int = 3) -> Tensor:
    """Turn teacher scores into targets whose prototypes have equal mass (Caron et al. 2020).

    Prototype sums run over the samples of all ranks (every rank must call this); sample sums are
    local. The constants 1 / K and 1 / M of the published form cancel and are left out. The global
    maximum is subtracted first: it cancels, too, and keeps exp finite for any scores.

    Parameters
    ----------
    scores_MK : Tensor
        M may differ between ranks and may be 0. Computed in float32, or float64 for float64 scores.
    temperature : float
        Teacher temperature.
    iterations : int
        Alternations of prototype and sample normalization.

    Returns
    -------
    Tensor
        Probabilities ``[M, K]``; every row sums to 1.
    """
    q_MK = at_least_float32(scores_MK) / temperature
    largest = q_MK.max() if q_MK.numel() else q_MK.new_tensor(-torch.inf)
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    q_MK = (q_MK - largest).exp_()
    # A prototype whose mass underflows to 0 stays at 0 instead of becoming 0 / 0.
    tiny = torch.finfo(q_MK.dtype).tiny
    for _ in range(iterations):
        q_MK /= sum_over_ranks(q_MK.sum(dim=0)).clamp_(min=tiny)
        q_MK /= q_MK.sum(dim=1, keepdim=True).clamp_(min=tiny)
    return q_MK


class Center(nn.Module):
    """Running mean of the teacher's scores: subtracted before the softmax (Caron et al. 2021).

    Parameters
    ----------
    prototypes : int
        K.
    momentum : float
        Share of the old center kept by an update, which takes effect at the next step.
    mean_of_ranks : bool
        Take the mean of the ranks' means (the published patch center, where ranks have
        different numbers of masked patches) instead of the mean over all samples.
    """

    center: Tensor  # a buffer [1, K]

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
        return ((at_least_float32(scores_MK) - self.center) / temperature).softmax(dim=-1)

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
