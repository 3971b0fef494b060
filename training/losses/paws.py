"""PAWS: views are labeled by their similarity to labeled images (Assran et al. 2021, section 3).

Shapes: M views of U images, view-major; S labeled images (the support) of C classes, D width.
"""

import torch
from torch import Tensor

__all__ = ["mean_entropy_loss", "paws_loss", "paws_targets", "sharpened"]

_SMALLEST = 1e-4  # probabilities below it count as 0 in a target, as published


def sharpened(log_probs_MC: Tensor, temperature: float) -> Tensor:
    """Return probabilities to the power of 1 / ``temperature``, rows summing to 1 again."""
    return (log_probs_MC / temperature).softmax(dim=-1)


@torch.no_grad()
def paws_targets(log_probs_VC: Tensor, views: int, *, sharpening: float = 0.25) -> Tensor:
    """Turn what two global views say into targets of all views (section 3.1).

    Each global view gets the sharpened prediction of the other one, each of the ``views - 2`` small
    ones the mean of both. Takes ``[2 U, C]``, log-probabilities of the first views of all images,
    then of the second ones; returns ``[views * U, C]``.
    """
    first, second = sharpened(log_probs_VC, sharpening).chunk(2)
    mean = (first + second) / 2
    targets = torch.cat([second, first, *[mean] * (views - 2)])
    return targets.where(targets >= _SMALLEST, 0.0)


def paws_loss(targets_MC: Tensor, log_probs_MC: Tensor) -> Tensor:
    """Cross-entropy of predictions with their targets, mean over the rows; nats."""
    return -(targets_MC * log_probs_MC).sum(dim=-1).mean()


def mean_entropy_loss(mean_C: Tensor) -> Tensor:
    """Minus the entropy of the mean prediction over all images (me-max, section 3.2); nats."""
    return torch.xlogy(mean_C, mean_C).sum()
