"""Cross-entropy between teacher and student: DINO between views, iBOT on masked patches.

Shapes: B images, V views, K prototypes, M masked patches of this rank. Batches are crop-major: all
first crops, then all second ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.training.precision import at_least_float32

__all__ = ["dino_loss", "ibot_loss"]


def dino_loss(
    targets: Tensor,
    student_global: Tensor,
    student_local: Tensor,
    *,
    temperature: float = 0.1,
    mean_of_pairs: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compare every student view with the teacher's view of each *other* global crop.

    Caron et al. 2021, eq. 3; the sum over pairs is divided by their number ``2 + 2 L``.

    Parameters
    ----------
    targets : Tensor
        Teacher probabilities ``[2B, K]`` of global crop 1, then 2.
    student_global, student_local : Tensor
        Student scores ``[2B, K]`` and ``[L * B, K]``.
    temperature : float
        Student temperature.
    mean_of_pairs : bool
        Without local crops, divide by 2 as in DINO v1; False: by 3, as in the code of DINOv2.

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
    terms = 2 + max(2 * num_local, 0 if mean_of_pairs else 1)
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
    log_probs_MK = F.log_softmax(at_least_float32(scores_MK) / temperature, dim=-1)
    return -(targets_MK * log_probs_MK).sum(dim=-1)
