"""Classes from a softmax over similarities to labeled rows: soft nearest neighbors.

Shapes: M rows, S labeled rows (the support) of C classes, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["soft_neighbors"]

_NO_VOTE = -1000.0  # of a logit, below the lowest: its exponential is 0 in float64


def soft_neighbors(
    x_MD: Tensor,
    support_SD: Tensor,
    classes_S: Tensor,
    num_classes: int,
    *,
    temperature: float = 0.1,
    smoothing: float = 0.0,
    itself_M: Tensor | None = None,
) -> Tensor:
    """Classify rows by a softmax over their cosines with the support.

    PAWS (Assran et al. 2021, section 3.1).

    Parameters
    ----------
    x_MD, support_SD : Tensor
        Embeddings, any scale.
    classes_S : Tensor
        int64, class of each row of the support.
    num_classes : int
        C.
    temperature : float
        Of the softmax over the support.
    smoothing : float
        Share of every label that is spread evenly over all classes.
    itself_M : Tensor, optional
        int64, the row of the support that each row is, which then has no vote.

    Returns
    -------
    Tensor
        Log-probabilities ``[M, C]``, at least float32; -inf of a class without support. Summed
        class by class from its nearest row on, so that none underflows at any temperature.
    """
    dtype = torch.promote_types(x_MD.dtype, torch.float32)
    x_MD, support_SD = (F.normalize(x.to(dtype), dim=-1) for x in (x_MD, support_SD))
    # In bfloat16 cosines would be multiples of 1/256 near 1, a step of 0.04 in the logits.
    with torch.autocast(x_MD.device.type, enabled=False):
        cosines_MS = x_MD @ support_SD.mT / temperature
    if itself_M is not None:  # finite: a class may have no other row
        cosines_MS = cosines_MS.scatter(1, itself_M[:, None], _NO_VOTE - 1 / temperature)
    columns_MS = classes_S.expand(len(cosines_MS), -1)
    nearest_MC = cosines_MS.new_full((len(cosines_MS), num_classes), -torch.inf)
    nearest_MC = nearest_MC.scatter_reduce(1, columns_MS, cosines_MS.detach(), "amax")
    shares_MS = (cosines_MS - nearest_MC.gather(1, columns_MS)).exp()
    sums_MC = torch.zeros_like(nearest_MC).scatter_add(1, columns_MS, shares_MS)
    log_probs_MC = F.log_softmax(nearest_MC + sums_MC.log(), dim=-1)
    if not smoothing:
        return log_probs_MC
    even = log_probs_MC.new_tensor(math.log(smoothing / num_classes))
    return torch.logaddexp(log_probs_MC + math.log(1 - smoothing), even)
