"""What the training loop asks of a method, and what passes between the two.

Batches are crop-major: the first global crops of all images, then the second ones; then local crop
1 of all images, and so on. Shapes: B images, L local crops, N patches, M masked patches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoforge.models.layers import BlockRows
from dinoforge.training.distributed.ranks import sum_over_ranks, world_size

__all__ = ["Backbone", "Losses", "Method", "Views"]


class Backbone(Protocol):
    """What a method asks of a backbone."""

    def forward_features_list(
        self,
        images: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        *,
        rows: Sequence[BlockRows] | None = None,
        packed: bool = False,
    ) -> list[dict[str, Tensor]]:
        """Run a batch per crop size; see `VisionTransformer.forward_features_list`."""


@dataclass(frozen=True)
class Views:
    """Crops and masks of B images: one micro-batch."""

    global_crops: Tensor  # [2B, 3, X, X]
    local_crops: Tensor  # [L * B, 3, x, x]
    masks_BN: Tensor  # bool [2B, N], True = hidden from the student
    # int64, patches that iBOT compares, in the flat [2B * N]: masked ones, or all (distillation)
    mask_indices_M: Tensor
    mask_weights_M: Tensor  # float32, 1 / such patches of the same crop
    rows: Sequence[BlockRows] | None = None  # stochastic depth of every block; None: none
    support: Tensor | None = None  # crops of labeled images [S, 3, X, X], if the method has any
    support_classes: Tensor | None = None  # int64 [S], columns of the classes of the step


@dataclass(frozen=True)
class Losses:
    """Losses of some views."""

    total: Tensor  # is optimized
    terms: Mapping[str, Tensor]  # unweighted, scalars; names of metrics below ``loss/``

    def detach(self) -> "Losses":
        """Return the values without the graph."""
        return Losses(self.total.detach(), {n: term.detach() for n, term in self.terms.items()})


class Method(nn.Module):
    """Networks, and the losses by which they are trained.

    A step is: `targets` of all micro-batches of this rank; for each of them `forward`, which
    parallel wrappers see, and the backward pass; the optimizer; the moving average.

    Attributes
    ----------
    student : nn.ModuleDict
        What the optimizer updates; ``backbone`` is one of them. Gradients are clipped for each.
    teacher : nn.ModuleDict
        Moving average of the student; networks of the same names. Empty if there is none.
    """

    student: nn.ModuleDict
    teacher: nn.ModuleDict
    freeze_statistics = False  # of batch normalization: they are those that the weights came with

    @torch.no_grad()
    def targets(self, parts: Sequence[Views], temperature: float) -> list[Any]:
        """Compute what `forward` is given beside each micro-batch; every rank calls this."""
        raise NotImplementedError

    def forward(self, views: Views, targets: Any) -> Losses:
        """Compute the losses of a micro-batch."""
        raise NotImplementedError

    @torch.no_grad()
    def metrics(self, losses: Sequence[Losses], _targets: Sequence[Any]) -> dict[str, float]:
        """Return loss terms (nats), means over the micro-batches of all ranks.

        Every rank calls this.
        """
        values = [{"total": part.total, **part.terms} for part in losses]
        means = torch.stack([torch.stack(list(terms.values())) for terms in values]).double()
        means = sum_over_ranks(means.mean(dim=0)) / world_size()
        return {f"loss/{name}": v for name, v in zip(values[0], means.tolist(), strict=True)}

    def diagnose(self, _row: Mapping[str, float]) -> str:
        """Describe what a row of metrics shows to be wrong, "" if nothing."""
        return ""

    @property
    def networks(self) -> list[nn.ModuleDict]:
        """The student, and the teacher if there is one: the last one is exported."""
        return [self.student, self.teacher] if self.teacher else [self.student]

    def saved(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint, by name."""
        return self.state_dict()

    @property
    def exported(self) -> nn.Module:
        """The backbone that is written beside each checkpoint: the teacher's if there is one."""
        return self.networks[-1]["backbone"]

    @property
    def exported_heads(self) -> nn.ModuleDict:
        """Heads that are written beside the backbone: those whose embeddings are of use."""
        return nn.ModuleDict()

    def train(self, mode: bool = True) -> "Method":
        """Switch the student; the teacher stays in evaluation mode, but for batch normalization.

        A teacher has statistics of its own, those of its views, as published: they are not
        averaged with the weights.
        """
        super().train(mode)
        self.teacher.eval()
        for module in self.teacher.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        if self.freeze_statistics:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
