"""Heads of DINO and iBOT: an MLP, a unit bottleneck, prototypes; initial values of all heads.

Shapes: M rows, D width of the backbone, P bottleneck, K prototypes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.models.batch_norm import BatchNorm1d
from dinoforge.models.init import assign, reset_norm

__all__ = ["ProjectionHead", "Prototypes", "draw_layers"]


class Prototypes(nn.Module):
    """Linear layer without bias, with weight normalization: row = g * v / ||v||.

    ``weight_g`` starts at 1; unless ``unit``, it is trained and decayed, as in DINOv2's code.
    """

    def __init__(self, bottleneck: int, prototypes: int, *, unit: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1), requires_grad=not unit)
        self.weight_v = nn.Parameter(torch.zeros(prototypes, bottleneck))

    def forward(self, x_MP: Tensor) -> Tensor:
        """Return scores ``[M, K]``: cosines while g is 1 and rows are unit vectors."""
        weight_KP = torch._weight_norm(self.weight_v, self.weight_g, 0)  # noqa: SLF001 - fused
        return F.linear(x_MP, weight_KP)


class ProjectionHead(nn.Module):
    """Linear - GELU - ... - Linear, L2 normalization, prototypes (Caron et al. 2021, app. C).

    ``width`` is that of the backbone; the other sizes are those of `HeadConfig`. If ``normalized``,
    batch normalization comes before each GELU, as in the head of DINO's ResNet-50.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        layers: int = 3,
        norm_last_layer: bool = False,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1)]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            norm = [BatchNorm1d(after)] if normalized else []
            parts += [nn.Linear(before, after), *norm, nn.GELU()]
        last = nn.Linear(sizes[-1], bottleneck)
        self.mlp = nn.Sequential(*parts, last) if parts else last  # names as published
        self.last_layer = Prototypes(bottleneck, prototypes, unit=norm_last_layer)

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
            elif isinstance(module, nn.BatchNorm1d):
                reset_norm(module)
        prototypes = torch.empty(self.last_layer.weight_v.shape)
        bound = prototypes.shape[1] ** -0.5
        assign(self.last_layer.weight_v, prototypes.uniform_(-bound, bound, generator=generator))
        assign(self.last_layer.weight_g, torch.ones(self.last_layer.weight_g.shape))


@torch.no_grad()
def draw_layers(network: nn.Module, seed: int) -> None:
    """Draw linear layers, biases too, within 1 / sqrt(fan in), torch's default; reset the norms.

    Biases of 0 would leave embeddings of 0 where a bottleneck is inactive, without a direction.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            for parameter in (module.weight, module.bias):
                drawn = torch.empty(parameter.shape)
                assign(parameter, drawn.uniform_(-bound, bound, generator=generator))
        elif isinstance(module, nn.BatchNorm1d):
            reset_norm(module)
