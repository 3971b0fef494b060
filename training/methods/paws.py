"""PAWS: unlabeled views are classified by their similarity to labeled images.

Assran et al. 2021. There is no teacher: the prediction of one view, sharpened, is the target of the
other.
Shapes: U images, V views of each (two of them global), S labeled views, D width, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dinoforge.exchange import gather_rows, sum_with_gradient
from dinoforge.neighbors.soft import soft_neighbors
from dinoforge.training.config import PawsConfig
from dinoforge.training.distributed.ranks import rank, world_size
from dinoforge.training.losses.paws import mean_entropy_loss, paws_loss, paws_targets, sharpened
from dinoforge.training.methods.method import Backbone, Losses, Method, Views

__all__ = ["Embedded", "Paws"]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a micro-batch: z is compared in predictions, h in targets."""

    z_support: Tensor  # [S, D]
    z_views: Tensor  # [V * U, D], view-major
    h_support: Tensor  # [S, D], without gradient
    h_whole: Tensor  # of the global views [2 U, D], without gradient
    classes_S: Tensor

    @property
    def compared(self) -> tuple[Tensor, Tensor]:
        """What losses pass gradients to."""
        return self.z_support, self.z_views


@dataclass(frozen=True)
class _Share:
    """What a micro-batch adds to the gradient of a step, which knows all its micro-batches."""

    losses: Losses  # of the step
    gradients: tuple[Tensor, Tensor]  # of these losses, by what is `compared`


class Paws(Method):
    """Backbone, projection and perhaps prediction; the support is shared by all ranks.

    Parameters
    ----------
    backbone, projection : nn.Module
    prediction : nn.Module, optional
        Between the projection and what is compared; targets are compared without it.
    num_classes : int
        C, of a step.
    settings : PawsConfig
    accumulated : int
        Micro-batches of a step.
    packed : bool
        Run the linear layers once over the tokens of all crops.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Module,
        prediction: nn.Module | None = None,
        *,
        num_classes: int,
        settings: PawsConfig,
        accumulated: int = 1,
        packed: bool = False,
    ) -> None:
        super().__init__()
        networks = {"backbone": backbone, "projection": projection}
        if prediction is not None:
            networks["prediction"] = prediction
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = name != "mask_token"
        self.student, self.teacher = nn.ModuleDict(networks), nn.ModuleDict()
        self.num_classes = num_classes
        self.settings = settings
        self.accumulated = accumulated  # the loop takes a mean over them
        self.packed = packed

    @property
    def exported_heads(self) -> nn.ModuleDict:
        """Projection and prediction: soft nearest neighbors compare what they give."""
        return nn.ModuleDict({n: head for n, head in self.student.items() if n != "backbone"})

    def targets(self, parts: Sequence[Views], temperature: float) -> list[_Share | None]:  # noqa: ARG002 - there is no teacher
        """Return nothing for a step in one piece.

        For several micro-batches, the gradient of the step by their embeddings: losses need all of
        them at once, but networks do not (Gao et al. 2021, GradCache). It costs a forward pass.
        """
        if len(parts) == 1:
            return [None]
        with torch.no_grad():
            embedded = [self._embed(views) for views in parts]
        with torch.enable_grad():
            for part in embedded:
                for x in part.compared:
                    x.requires_grad_()
            losses = self._losses(embedded)
            flat = torch.autograd.grad(losses.total, [x for e in embedded for x in e.compared])
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [_Share(losses.detach(), pair) for pair in pairs]

    def forward(self, views: Views, targets: _Share | None) -> Losses:
        """Compute the losses of a step, or this micro-batch's share of its gradient."""
        embedded = self._embed(views)
        if targets is None:
            return self._losses([embedded])
        products = [
            (x * gradient).sum()
            for x, gradient in zip(embedded.compared, targets.gradients, strict=True)
        ]
        share = sum(products[1:], products[0]) * self.accumulated
        return Losses(targets.losses.total + (share - share.detach()), targets.losses.terms)

    def _embed(self, views: Views) -> Embedded:
        assert views.support is not None
        assert views.support_classes is not None
        sizes = [torch.cat([views.support, views.global_crops])]
        if len(views.local_crops):
            sizes.append(views.local_crops)
        backbone = cast("Backbone", self.student["backbone"])
        outputs = backbone.forward_features_list(sizes, [None] * len(sizes), packed=self.packed)
        # One pass per size, also of the heads: batch normalization sees crops of one size at once.
        h = [self.student["projection"](out["x_norm_clstoken"]) for out in outputs]
        z = [self.student["prediction"](x) for x in h] if "prediction" in self.student else h
        support = len(views.support)
        h_support, h_whole = h[0].detach().tensor_split([support])
        return Embedded(
            z_support=z[0][:support],
            z_views=torch.cat([z[0][support:], *z[1:]]),
            h_support=h_support,
            h_whole=h_whole,
            classes_S=views.support_classes,
        )

    def _losses(self, parts: Sequence[Embedded]) -> Losses:
        classes_S = gather_rows(torch.cat([part.classes_S for part in parts]))
        h_SD, z_SD = (
            gather_rows(torch.cat([getattr(part, name) for part in parts]))
            for name in ("h_support", "z_support")
        )

        def classify(x_MD: Tensor, support_SD: Tensor) -> Tensor:
            return soft_neighbors(
                *(x_MD, support_SD, classes_S, self.num_classes),
                temperature=self.settings.temperature,
                smoothing=self.settings.smoothing,
            )

        terms, means, entropies, directions = [], [], [], []
        for part in parts:
            log_probs = classify(part.z_views, z_SD)
            swapped = classify(part.h_whole, h_SD)
            views = len(log_probs) // (len(swapped) // 2)
            targets = paws_targets(swapped, views, sharpening=self.settings.sharpening)
            terms.append(paws_loss(targets, log_probs))
            means.append(sharpened(log_probs, self.settings.sharpening).mean(dim=0))
            with torch.no_grad():
                entropies.append(torch.special.entr(log_probs.exp()).sum(dim=-1).mean())
                unit_MD = nn.functional.normalize(part.z_views.to(log_probs.dtype), dim=-1)
                directions.append(unit_MD.mean(dim=0))
        xent = torch.stack(terms).mean()
        mean_C, mean_D = (
            sum_with_gradient(torch.stack(parts).mean(dim=0)) / world_size()
            for parts in (means, directions)
        )
        me_max = mean_entropy_loss(mean_C)
        spread = (1 - mean_D.square().sum()).clamp(min=0).sqrt()
        entropy = torch.stack(entropies).mean()
        values = {"xent": xent, "me_max": me_max, "entropy": entropy, "spread": spread}
        total = xent + self.settings.me_max * me_max
        if self.settings.supervised:
            values["supervised"] = self._labels_by_each_other(parts)
            total = total + self.settings.supervised * values["supervised"]
        return Losses(total, values)

    def _labels_by_each_other(self, parts: Sequence[Embedded]) -> Tensor:
        """Classify labeled images by the others: the loss of SuNCEt (Assran et al. 2020)."""
        own_SD = torch.cat([part.z_support for part in parts])
        own_S = torch.cat([part.classes_S for part in parts])
        smoothing = self.settings.smoothing
        log_probs = soft_neighbors(
            *(own_SD, gather_rows(own_SD), gather_rows(own_S), self.num_classes),
            temperature=self.settings.temperature,
            smoothing=smoothing,
            itself_M=rank() * len(own_S) + torch.arange(len(own_S), device=own_S.device),
        )
        labels_SC = nn.functional.one_hot(own_S, self.num_classes).to(log_probs.dtype)
        return paws_loss((1 - smoothing) * labels_SC + smoothing / self.num_classes, log_probs)

    def metrics(self, losses: Sequence[Losses], targets: Sequence[object]) -> dict[str, float]:
        """Return loss terms (nats) and signs of collapse.

        ``predictions/entropy_of_mean``: of the mean prediction, ln C if all classes are predicted
        as often; ``predictions/mean_entropy``: of single predictions, ln C if each is uniform;
        ``features/std``: root of the variance of unit embeddings, 1 at most, 0 when collapsed.
        """
        row = super().metrics(losses, targets)
        row["predictions/entropy_of_mean"] = -row["loss/me_max"]
        row["predictions/mean_entropy"] = row.pop("loss/entropy")
        row["features/std"] = row.pop("loss/spread")
        return row

    def diagnose(self, row: Mapping[str, float]) -> str:
        """Describe what is wrong with a run, "" if nothing."""
        most = math.log(self.num_classes)
        if row["features/std"] < 0.2:
            return "embeddings collapse: all views have almost the same one"
        if row["predictions/entropy_of_mean"] < 0.5 * most:
            return "few classes are predicted: raise paws.me_max, or support.images"
        return ""
