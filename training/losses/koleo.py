"""KoLeo: push every embedding away from its nearest neighbor in the batch.

Shapes: B rows, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["koleo_loss"]

_EPS = 1e-8


def koleo_loss(x_BD: Tensor) -> Tensor:
    """Kozachenko-Leonenko estimate of the entropy of the rows, negated.

    Sablayrolles et al. 2019, section 3, eq. 4; DINOv2 puts it on the class tokens of each global
    crop with weight 0.1.

    Parameters
    ----------
    x_BD : Tensor
        Backbone class tokens ``[B, D]``, any scale; normalized here. Float32, also inside
        autocast: half precision turns exact duplicates into infinity. Float64 stays.

    Returns
    -------
    Tensor
        Scalar, nats. 0 for fewer than two rows: one row has no neighbor.
    """
    if len(x_BD) < 2:
        return x_BD.sum() * 0.0
    with torch.autocast(x_BD.device.type, enabled=False):
        x_BD = x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))
        x_BD = F.normalize(x_BD, dim=-1, eps=_EPS)
        with torch.no_grad():
            similarity_BB = x_BD @ x_BD.T
            similarity_BB.fill_diagonal_(-1.0)
            nearest_B = similarity_BB.argmax(dim=1)
        # From the difference, not sqrt(2 - 2 cos), which loses all digits for near-duplicates.
        distance_B = (x_BD - x_BD[nearest_B] + _EPS).norm(dim=-1)
        return -(distance_B + _EPS).log().mean()
