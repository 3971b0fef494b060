"""Contrastive loss between two views of unlabeled images (NT-Xent of SimCLR, Chen et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.exchange import gather_rows
from dinoforge.training.distributed.ranks import rank
from dinoforge.training.precision import at_least_float32

__all__ = ["contrastive_loss"]


def contrastive_loss(z_MD: Tensor, temperature: float = 0.1) -> Tensor:
    """Find the other view of an image among the views of all images and ranks; nats.

    Parameters
    ----------
    z_MD : Tensor
        Embeddings of this rank, any scale: the first views of U images, then the second ones.
    temperature : float
        Of the cosines.

    Returns
    -------
    Tensor
        Scalar, mean over the rows of this rank; every rank must call it. Gradients pass through
        the rows that search, not through those among which they search, as published with SuNCEt.
    """
    z_MD = F.normalize(at_least_float32(z_MD), dim=-1)
    others_ND = gather_rows(z_MD.detach())
    first, rows = rank() * len(z_MD), torch.arange(len(z_MD), device=z_MD.device)
    with torch.autocast(z_MD.device.type, enabled=False):
        cosines_MN = z_MD @ others_ND.mT / temperature
    cosines_MN = cosines_MN.scatter(1, first + rows[:, None], -torch.inf)
    return F.cross_entropy(cosines_MN, first + rows.roll(len(rows) // 2))
