"""The method in one screen: DINO on views, iBOT on masked patches, KoLeo on class tokens.

DINOv2 (Oquab et al. 2023, section 4). Batches are crop-major: the first global crops of all
images, then the second ones; then local crop 1 of all images, and so on.
Shapes: B images, L local crops, N patches, M masked patches, D width, K prototypes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from dinoforge.models.layers import BlockRows
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.heads import ProjectionHead
from dinoforge.training.losses.balance import Center, sinkhorn_knopp
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.losses.koleo import koleo_loss

__all__ = ["Losses", "Method", "Targets", "Views"]


@dataclass(frozen=True)
class Views:
    """Crops and masks of B images."""

    global_crops: Tensor  # [2B, 3, X, X]
    local_crops: Tensor  # [L * B, 3, x, x]
    masks_BN: Tensor  # bool [2B, N], True = hidden from the student
    mask_indices_M: Tensor  # int64, masked patches in the flat [2B * N]
    mask_weights_M: Tensor  # float32, 1 / masked patches of the same crop


@dataclass(frozen=True)
class Targets:
    """Outputs of the teacher for some views."""

    cls_BK: Tensor  # probabilities of the class tokens [2B, K]
    patch_MK: Tensor  # of the masked patches
    features_BD: Tensor  # class tokens of the backbone [2B, D]


@dataclass(frozen=True)
class Losses:
    """Terms of some views; ``total`` is optimized, the others are unweighted."""

    total: Tensor
    dino_local: Tensor
    dino_global: Tensor
    ibot: Tensor
    koleo: Tensor  # summed over the two global crops

    def detach(self) -> "Losses":
        """Return the values without the graph."""
        return Losses(*(getattr(self, field.name).detach() for field in fields(self)))


class Method(nn.Module):
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

    def __init__(
        self,
        backbone: VisionTransformer,
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
            backbone.mask_token.requires_grad = False
            if ibot_head is not None:
                ibot_head.requires_grad_(requires_grad=False)

    def forward(
        self, views: Views, targets: Targets, rows: Sequence[BlockRows] | None = None
    ) -> Losses:
        """Compute the student's loss; `rows` are its stochastic depth."""
        backbone = _backbone(self.student)
        crops, local = backbone.forward_features_list(
            [views.global_crops, views.local_crops],
            [views.masks_BN if self.weights[1] else None, None],
            rows=rows,
            packed=self.packed,
        )
        cls_BD, cls_LD = crops["x_norm_clstoken"], local["x_norm_clstoken"]
        patches_MD = self._masked_patches(crops, views)
        scores, patch_MK = self._scores(self.student, torch.cat([cls_BD, cls_LD]), patches_MD)

        dino_local, dino_global = dino_loss(
            targets.cls_BK, *scores.split([len(cls_BD), len(cls_LD)])
        )
        ibot = koleo = dino_global.new_zeros(())
        if self.weights[1]:
            ibot = ibot_loss(targets.patch_MK, patch_MK, views.mask_weights_M, len(cls_BD))
        if self.weights[2]:
            koleo = sum((koleo_loss(x_BD, self.group_size) for x_BD in cls_BD.chunk(2)), koleo)
        weighted = (dino_local + dino_global, ibot, koleo)
        total = sum(weight * term for weight, term in zip(self.weights, weighted, strict=True))
        assert isinstance(total, Tensor)
        return Losses(total, dino_local, dino_global, ibot, koleo)

    @torch.no_grad()
    def targets(self, parts: Sequence[Views], temperature: float) -> list[Targets]:
        """Compute the teacher's balanced scores of the unmasked global crops.

        Takes the micro-batches of this rank's part of a step: they are balanced together, and with
        those of the other ranks, all of which must call this.
        """
        backbone = _backbone(self.teacher)
        cls_scores, patch_scores, features = [], [], []
        for views in parts:
            tokens = backbone.forward_features(views.global_crops)
            cls_BD, patches_MD = tokens["x_norm_clstoken"], self._masked_patches(tokens, views)
            cls_BK, patch_MK = self._scores(self.teacher, cls_BD, patches_MD)
            cls_scores.append(cls_BK)
            patch_scores.append(patch_MK)
            features.append(cls_BD)
        cls_scores = self._balanced(cls_scores, self.dino_center, temperature)
        if self.weights[1]:
            patch_scores = self._balanced(patch_scores, self.ibot_center, temperature)
        return [Targets(*part) for part in zip(cls_scores, patch_scores, features, strict=True)]

    def _masked_patches(self, tokens: dict[str, Tensor], views: Views) -> Tensor:
        patches_MD = tokens["x_norm_patchtokens"].flatten(0, 1)[views.mask_indices_M]
        return patches_MD if self.weights[1] else patches_MD[:0]

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

    def train(self, mode: bool = True) -> "Method":
        """Switch the student only: the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


def _backbone(networks: nn.ModuleDict) -> VisionTransformer:
    backbone = networks["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone
