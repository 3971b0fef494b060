"""KoLeo spreads the class tokens of a batch: B rows of width D, in G groups of S rows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.training.precision import at_least_float32

__all__ = ["koleo_loss"]

_EPS = 1e-8


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
        x_BD = F.normalize(at_least_float32(x_BD), dim=-1, eps=_EPS)
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
