"""Gradient norms, clipped per sub-network: heads would otherwise decide for the backbone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["clip_gradients"]


@torch.no_grad()
def clip_gradients(networks: Mapping[str, nn.Module], max_norm: float) -> dict[str, Tensor]:
    """Scale each sub-network's gradient to a norm of at most ``max_norm``, in place.

    Parameters
    ----------
    networks : mapping
        Name -> module; each is clipped by its own norm, as published.
    max_norm : float
        0 clips nothing and only measures.

    Returns
    -------
    dict
        Name -> norm before clipping, a scalar tensor; not finite if any gradient is not.
    """
    norms: dict[str, Tensor] = {}
    for name, network in networks.items():
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if not gradients:
            continue
        each = torch._foreach_norm(gradients)  # noqa: SLF001 - one kernel for all
        norms[name] = torch.linalg.vector_norm(torch.stack(each))
        if max_norm > 0:
            scale = (max_norm / (norms[name] + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)
    return norms
