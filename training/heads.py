"""The projection head of DINO and iBOT: an MLP, a unit bottleneck, prototypes.

Shapes: M rows, D width of the backbone, P bottleneck, K prototypes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.models.init import assign

__all__ = ["ProjectionHead", "Prototypes"]


class Prototypes(nn.Module):
    """Linear layer without bias, with weight normalization: row = g * v / ||v||.

    ``weight_g`` starts at 1, is trained and decayed, as in DINOv2's code (DINO v1 froze it).
    """

    def __init__(self, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))
        self.weight_v = nn.Parameter(torch.zeros(prototypes, bottleneck))

    def forward(self, x_MP: Tensor) -> Tensor:
        """Return scores ``[M, K]``: cosines while g is 1 and rows are unit vectors."""
        weight_KP = torch._weight_norm(self.weight_v, self.weight_g, 0)  # noqa: SLF001 - fused
        return F.linear(x_MP, weight_KP)


class ProjectionHead(nn.Module):
    """Linear - GELU - ... - Linear, L2 normalization, prototypes (Caron et al. 2021, app. C).

    ``width`` is that of the backbone; the other sizes are those of `HeadConfig`.
    """

    def __init__(
        self, width: int, *, hidden: int, bottleneck: int, prototypes: int, layers: int = 3
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            parts += [nn.Linear(before, after), nn.GELU()]
        self.mlp = parts[0] if layers == 1 else nn.Sequential(*parts[:-1])  # names as published
        self.last_layer = Prototypes(bottleneck, prototypes)

    def bottleneck(self, x_MD: Tensor) -> Tensor:
        """Return unit rows ``[M, P]``, in float32 or float64."""
        x_MP = self.mlp(x_MD)
        x_MP = x_MP.to(torch.promote_types(x_MP.dtype, torch.float32))
        return F.normalize(x_MP, dim=-1, eps=1e-12)

    def forward(self, x_MD: Tensor) -> Tensor:
        """Return scores ``[M, K]`` of backbone tokens ``[M, D]``."""
        scores_MK: Tensor = self.last_layer(self.bottleneck(x_MD))
        return scores_MK

    def init_weights(self, seed: int, *, xavier: bool = False) -> None:
        """Draw initial weights from ``seed`` alone: trunc_normal(0.02), or Xavier when narrow."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                weight = torch.empty(module.weight.shape)
                if xavier:
                    nn.init.xavier_uniform_(weight, generator=generator)
                else:
                    nn.init.trunc_normal_(weight, std=0.02, generator=generator)
                assign(module.weight, weight)
                assign(module.bias, torch.zeros(module.bias.shape))
        prototypes = torch.empty(self.last_layer.weight_v.shape)
        bound = prototypes.shape[1] ** -0.5
        assign(self.last_layer.weight_v, prototypes.uniform_(-bound, bound, generator=generator))
        assign(self.last_layer.weight_g, torch.ones(self.last_layer.weight_g.shape))
