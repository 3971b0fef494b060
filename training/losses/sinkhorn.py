"""Sinkhorn-Knopp: teacher targets that use all prototypes equally over the global batch.

Shapes: M samples on this rank, K prototypes.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from dinoforge.training.distributed.ranks import sum_over_ranks, world_size

__all__ = ["sinkhorn_knopp"]


@torch.no_grad()
def sinkhorn_knopp(scores_MK: Tensor, temperature: float, *, iterations: int = 3) -> Tensor:
    """Turn teacher scores into targets whose prototypes have equal mass (Caron et al. 2020).

    Parameters
    ----------
    scores_MK : Tensor
        Teacher scores ``[M, K]``; M may differ between ranks and may be 0. Computed in float32,
        or float64 for float64 scores.
    temperature : float
        Teacher temperature.
    iterations : int
        Alternations of prototype and sample normalization.

    Returns
    -------
    Tensor
        Probabilities ``[M, K]``; every row sums to 1.

    Notes
    -----
    Prototype sums run over the samples of all ranks (every rank must call this); sample sums are
    local. The constants 1 / K and 1 / M of the published form cancel and are left out. The global
    maximum is subtracted first: it cancels, too, and keeps exp finite for any scores.
    """
    dtype = torch.promote_types(scores_MK.dtype, torch.float32)
    q_MK = scores_MK.to(dtype) / temperature
    q_MK = (q_MK - _max_over_ranks(q_MK)).exp_()
    # A prototype whose mass underflows to 0 stays at 0 instead of becoming 0 / 0.
    tiny = torch.finfo(dtype).tiny
    for _ in range(iterations):
        q_MK /= sum_over_ranks(q_MK.sum(dim=0)).clamp_(min=tiny)
        q_MK /= q_MK.sum(dim=1, keepdim=True).clamp_(min=tiny)
    return q_MK


def _max_over_ranks(x: Tensor) -> Tensor:
    largest = x.max() if x.numel() else x.new_tensor(-torch.inf)
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest
