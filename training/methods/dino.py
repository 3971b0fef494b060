"""The method in one screen: DINO on views, iBOT on masked patches, KoLeo on class tokens.

DINO (Caron et al. 2021) is the first term alone, DINOv2 (Oquab et al. 2023, section 4) all three,
also with another teacher (`training.methods.distillation`).
Shapes: B images, L local crops, N patches, M masked patches, D width, K prototypes.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dinoforge.training.distributed.ranks import sum_over_ranks, world_size
from dinoforge.training.heads import ProjectionHead
from dinoforge.training.losses.balance import Center, sinkhorn_knopp
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.losses.koleo import koleo_loss
from dinoforge.training.methods.method import Backbone, Losses, Method, Views

__all__ = ["Dino", "Targets"]


@dataclass(frozen=True)
class Targets:
    """Outputs of the teacher for some views."""

    cls_BK: Tensor  # probabilities of the class tokens [2B, K]
    patch_MK: Tensor  # of the masked patches
    features_BD: Tensor  # class tokens of the backbone [2B, D]


class Dino(Method):
    """Student, teacher and the loss between them.

    Parameters
    ----------
    backbone, dino_head : nn.Module
        Of the student; the teacher starts as an exact copy.
    ibot_head : nn.Module, optional
        None: masked patches use the DINO head.
    balance : str
        ``sinkhorn`` or ``centering``: what prevents collapse to one prototype.
    weights : tuple of float
        Of DINO, iBOT and KoLeo; 0 leaves the term out.
    group_size : int
        Images among which KoLeo seeks neighbors; 0: those of one call.
    packed : bool
        Run the student's linear layers once over the tokens of all crops.
    """

    mean_of_pairs = False  # see `dino_loss`

    def __init__(
        self,
        backbone: nn.Module,
        dino_head: ProjectionHead,
        ibot_head: ProjectionHead | None = None,
        *,
        balance: str = "sinkhorn",
        weights: tuple[float, float, float] = (1.0, 1.0, 0.1),
        group_size: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__()
        networks: dict[str, nn.Module] = {"backbone": backbone, "dino_head": dino_head}
        if ibot_head is not None:
            networks["ibot_head"] = ibot_head
        self.student = nn.ModuleDict(networks)
        self.teacher = copy.deepcopy(self.student).requires_grad_(requires_grad=False).eval()
        self.balance = balance
        self.weights = weights
        self.group_size = group_size
        self.packed = packed
        patch_head = ibot_head if ibot_head is not None else dino_head
        # Means over all samples of all ranks: a step's split must not change its targets.
        self.dino_center = Center(len(dino_head.last_layer.weight_g))
        self.ibot_center = Center(len(patch_head.last_layer.weight_g))
        if not weights[1]:  # else DDP would wait for their gradients
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad = name != "mask_token"
            if ibot_head is not None:
                ibot_head.requires_grad_(requires_grad=False)

    def forward(self, views: Views, targets: Targets) -> Losses:
        """Compute the student's loss."""
        backbone = _backbone(self.student)
        crops, local = backbone.forward_features_list(
            [views.global_crops, views.local_crops],
            [views.masks_BN if self.weights[1] else None, None],
            rows=views.rows,
            packed=self.packed,
        )
        cls_BD, cls_LD = crops["x_norm_clstoken"], local["x_norm_clstoken"]
        patches_MD = self._masked_patches(crops, views)
        scores, patch_MK = self._scores(self.student, torch.cat([cls_BD, cls_LD]), patches_MD)

        dino_local, dino_global = dino_loss(
            targets.cls_BK,
            *scores.split([len(cls_BD), len(cls_LD)]),
            mean_of_pairs=self.mean_of_pairs,
        )
        ibot = koleo = dino_global.new_zeros(())
        if self.weights[1]:
            ibot = ibot_loss(targets.patch_MK, patch_MK, views.mask_weights_M, len(cls_BD))
        if self.weights[2]:
            koleo = sum((koleo_loss(x_BD, self.group_size) for x_BD in cls_BD.chunk(2)), koleo)
        weighted = (dino_local + dino_global, ibot, koleo)
        total = sum(weight * term for weight, term in zip(self.weights, weighted, strict=True))
        assert isinstance(total, Tensor)
        terms = {"dino_local": dino_local, "dino_global": dino_global, "ibot": ibot}
        return Losses(total, terms | {"koleo": koleo})  # of both global crops

    @property
    def guide(self) -> nn.ModuleDict:
        """Networks that make the targets."""
        return self.teacher

    @torch.no_grad()
    def targets(self, parts: Sequence[Views], temperature: float) -> list[Targets]:
        """Compute the teacher's balanced scores of the unmasked global crops.

        Takes the micro-batches of this rank's part of a step: they are balanced together, and with
        those of the other ranks, all of which must call this.
        """
        backbone = _backbone(self.guide)
        cls_scores, patch_scores, features = [], [], []
        for views in parts:
            (tokens,) = backbone.forward_features_list([views.global_crops], [None])
            cls_BD, patches_MD = tokens["x_norm_clstoken"], self._masked_patches(tokens, views)
            cls_BK, patch_MK = self._scores(self.guide, cls_BD, patches_MD)
            cls_scores.append(cls_BK)
            patch_scores.append(patch_MK)
            features.append(cls_BD)
        cls_scores = self._balanced(cls_scores, self.dino_center, temperature)
        if self.weights[1]:
            patch_scores = self._balanced(patch_scores, self.ibot_center, temperature)
        return [Targets(*part) for part in zip(cls_scores, patch_scores, features, strict=True)]

    def _masked_patches(self, tokens: dict[str, Tensor], views: Views) -> Tensor:
        patches = tokens["x_norm_patchtokens"].flatten(0, 1)
        return patches[views.mask_indices_M] if self.weights[1] else patches[:0]

    @staticmethod
    def _scores(
        networks: nn.ModuleDict, cls_BD: Tensor, patches_MD: Tensor
    ) -> tuple[Tensor, Tensor]:
        head = networks["dino_head"]
        if "ibot_head" in networks:
            return head(cls_BD), networks["ibot_head"](patches_MD)
        # One call: a sharded head is gathered once.
        cls_BK, patches_MK = head(torch.cat([cls_BD, patches_MD])).tensor_split([len(cls_BD)])
        return cls_BK, patches_MK

    def _balanced(self, parts: list[Tensor], center: Center, temperature: float) -> list[Tensor]:
        scores_MK = torch.cat(parts)
        if self.balance == "sinkhorn":
            targets_MK = sinkhorn_knopp(scores_MK, temperature)
        else:
            targets_MK = center.targets(scores_MK, temperature)
            center.update(scores_MK)  # used from the next step on
        return list(targets_MK.split([len(part) for part in parts]))

    @torch.no_grad()
    def metrics(self, losses: Sequence[Losses], targets: Sequence[Targets]) -> dict[str, float]:
        """Return loss terms (nats) and signs of collapse of one step, over all its images.

        ``teacher/entropy_of_mean``: entropy of the mean target, ln K when all prototypes are used;
        ``teacher/mean_entropy``: mean entropy of single targets, 0 when each picks one prototype,
        ln K when they are uniform; ``features/std``: standard deviation of unit class tokens times
        sqrt(D), about 1 when healthy, 0 when collapsed.
        """
        row = super().metrics(losses, targets)
        row["loss/dino"] = row["loss/dino_local"] + row["loss/dino_global"]
        targets_BK = torch.cat([part.cls_BK for part in targets]).double()
        features_BD = torch.cat([part.features_BD for part in targets]).double()
        features_BD = nn.functional.normalize(features_BD, dim=-1)
        rows = len(features_BD) * world_size()
        mean_K = sum_over_ranks(targets_BK.sum(dim=0)) / rows
        mean_D = sum_over_ranks(features_BD.sum(dim=0)) / rows
        variance_D = sum_over_ranks((features_BD - mean_D).square().sum(dim=0)) / max(rows - 1, 1)
        entropy = sum_over_ranks(_entropy(targets_BK).sum()) / rows
        return row | {
            "teacher/entropy_of_mean": _entropy(mean_K).item(),
            "teacher/mean_entropy": entropy.item(),
            "features/std": variance_D.sqrt().mean().item() * math.sqrt(len(mean_D)),
        }

    def diagnose(self, row: Mapping[str, float]) -> str:
        """Describe what is wrong with a run, "" if nothing.

        Thresholds come from small runs on CIFAR-10: a healthy one has a feature std of 0.9 to 1 and
        targets well below ln K after a few hundred steps.
        """
        largest = math.log(self.dino_center.center.shape[1])
        if row["features/std"] < 0.2:
            return "features collapse: all images have almost the same class token"
        if row["teacher/mean_entropy"] > 0.93 * largest:
            return (
                "targets are almost uniform: lower teacher.temperature, or use model.init=xavier "
                "if the width is below 384"
            )
        if row["teacher/entropy_of_mean"] < 0.3 * largest:
            return (
                "few prototypes are used: raise teacher.temperature, or use "
                "teacher.balance=sinkhorn"
            )
        return ""


def _backbone(networks: nn.ModuleDict) -> Backbone:
    return cast("Backbone", networks["backbone"])


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=-1)
