"""The losses, and the two ways to balance the teacher: Sinkhorn-Knopp and centering.

Shapes: B images, V views, K prototypes, D width, M masked patches or samples of this rank; in KoLeo
G groups of S rows. Batches are crop-major: all first crops, then all second ones.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.training.distributed.ranks import sum_over_ranks, world_size

__all__ = ["Center", "dino_loss", "ibot_loss", "koleo_loss", "sinkhorn_knopp"]

_EPS = 1e-8


def dino_loss(
    targets: Tensor, student_global: Tensor, student_local: Tensor, *, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Compare every student view with the teacher's view of each *other* global crop.

    Caron et al. 2021, eq. 3; the sum over pairs is divided by ``2 + 2 L``.

    Parameters
    ----------
    targets : Tensor
        Teacher probabilities ``[2B, K]`` of global crop 1, then 2.
    student_global, student_local : Tensor
        Student scores ``[2B, K]`` and ``[L * B, K]``.
    temperature : float
        Student temperature.

    Returns
    -------
    tuple of Tensor
        Scalars, nats: the terms of the local crops and of the global crops.
    """
    batch = len(targets) // 2
    first_BK, second_BK = targets[:batch], targets[batch:]
    num_local = len(student_local) // batch
    # Teacher of crop 2 against student of crop 1, and vice versa.
    crossed = torch.cat([second_BK, first_BK])
    pair = _cross_entropy(crossed, student_global, temperature).mean()
    # Every local crop is compared with both teacher views: one sum with their sum as the target.
    sum_VBK = (first_BK + second_BK).expand(num_local, -1, -1).reshape(-1, targets.shape[1])
    local = _cross_entropy(sum_VBK, student_local, temperature)
    terms = 2 + max(2 * num_local, 1)
    return local.sum() / batch / terms, 2 * pair / terms


def ibot_loss(
    targets_MK: Tensor,
    student_MK: Tensor,
    weights_M: Tensor,
    num_images: int,
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Compare the student's masked patches with the teacher's view of them (Zhou et al. 2022).

    Parameters
    ----------
    targets_MK, student_MK : Tensor
        Teacher probabilities and student scores of the masked patches.
    weights_M : Tensor
        1 / (masked patches of the same image): every masked image counts equally.
    num_images : int
        Global crops, *unmasked ones included*: the sum is divided by it.

    Returns
    -------
    Tensor
        Scalar, nats.
    """
    return (_cross_entropy(targets_MK, student_MK, temperature) * weights_M).sum() / num_images


def _cross_entropy(targets_MK: Tensor, scores_MK: Tensor, temperature: float) -> Tensor:
    log_probs_MK = F.log_softmax(_exact(scores_MK) / temperature, dim=-1)
    return -(targets_MK * log_probs_MK).sum(dim=-1)


def koleo_loss(x_BD: Tensor, group_size: int = 0) -> Tensor:
    """Push every embedding away from its nearest neighbor: minus the entropy of the rows.

    Kozachenko-Leonenko estimate; Sablayrolles et al. 2019, section 3, eq. 4. DINOv2 applies it to
    the class tokens of each global crop with weight 0.1.

    Parameters
    ----------
    x_BD : Tensor
        Backbone class tokens ``[B, D]``, any scale; normalized here. At least float32, also under
        autocast: in half precision exact duplicates would give infinity.
    group_size : int
        Neighbors are sought among this many consecutive rows (a divisor of B); 0: among all rows.
        With fixed groups the loss does not depend on how a batch is split over ranks.

    Returns
    -------
    Tensor
        Scalar, nats. 0 for groups of one row, which has no neighbor.
    """
    group_size = group_size or len(x_BD)
    if group_size < 2:
        return x_BD.sum() * 0.0
    with torch.autocast(x_BD.device.type, enabled=False):
        x_BD = F.normalize(_exact(x_BD), dim=-1, eps=_EPS)
        with torch.no_grad():
            x_GSD = x_BD.unflatten(0, (-1, group_size))
            similarity_GSS = x_GSD @ x_GSD.mT
            similarity_GSS.diagonal(dim1=1, dim2=2).fill_(-1.0)
            nearest_GS = similarity_GSS.argmax(dim=2)
            first_G1 = torch.arange(0, len(x_BD), group_size, device=x_BD.device)[:, None]
            nearest_B = (nearest_GS + first_G1).flatten()
        # From the difference, not sqrt(2 - 2 cos), which loses all digits for near-duplicates.
        distance_B = (x_BD - x_BD[nearest_B] + _EPS).norm(dim=-1)
        return -(distance_B + _EPS).log().mean()


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
    q_MK = _exact(scores_MK) / temperature
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
        return ((_exact(scores_MK) - self.center) / temperature).softmax(dim=-1)

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


def _exact(x: Tensor) -> Tensor:
    """Return float32 at least: losses and targets of half-precision scores are summed in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
