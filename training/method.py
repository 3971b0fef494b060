"""The method in one screen: DINO on views, iBOT on masked patches, KoLeo on class tokens.

DINOv2 (Oquab et al. 2023, section 4). Batches are crop-major: the first global crops of all
images, then the second ones; then local crop 1 of all images, and so on.
Shapes: B images, L local crops, N patches, M masked patches, D width, K prototypes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinoforge.models.layers import Permutation
from dinoforge.models.vit import VisionTransformer
from training.heads import ProjectionHead
from training.losses import Center, dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp

__all__ = ["Losses", "Method", "Views"]


@dataclass(frozen=True)
class Views:
    """What the networks see of B images in one step."""

    global_crops: Tensor  # [2B, 3, X, X]
    local_crops: Tensor  # [L * B, 3, x, x]
    masks_BN: Tensor  # bool [2B, N], True = hidden from the student
    mask_indices_M: Tensor  # int64, masked patches in the flat [2B * N]
    mask_weights_M: Tensor  # float32, 1 / masked patches of the same crop


@dataclass(frozen=True)
class Losses:
    """Terms of one step; ``total`` is what is optimized, the others are before their weights."""

    total: Tensor
    dino_local: Tensor
    dino_global: Tensor
    ibot: Tensor
    koleo: Tensor  # summed over the two global crops
    targets_BK: Tensor  # teacher probabilities of the class tokens [2B, K]
    features_BD: Tensor  # teacher class tokens [2B, D]


@dataclass(frozen=True)
class _Targets:
    cls_BK: Tensor
    patch_MK: Tensor
    features_BD: Tensor


class Method(nn.Module):
    """Student, teacher and the loss between them.

    Parameters
    ----------
    backbone, dino_head : nn.Module
        The student's; the teacher starts as an exact copy.
    ibot_head : nn.Module, optional
        None shares the DINO head with the masked patches.
    balance : str
        ``sinkhorn`` or ``centering``: what keeps the teacher from one prototype for all.
    weights : tuple of float
        Of DINO, iBOT and KoLeo; a weight of 0 leaves the term out.
    drop_path : float
        Share of samples that skip each residual branch of the student.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        dino_head: ProjectionHead,
        ibot_head: ProjectionHead | None,
        *,
        balance: str = "sinkhorn",
        weights: tuple[float, float, float] = (1.0, 1.0, 0.1),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        networks: dict[str, nn.Module] = {"backbone": backbone, "dino_head": dino_head}
        if ibot_head is not None:
            networks["ibot_head"] = ibot_head
        self.student = nn.ModuleDict(networks)
        self.teacher = _copy(self.student)
        self.balance = balance
        self.weights = weights
        self.drop_path = drop_path
        patch_head = ibot_head if ibot_head is not None else dino_head
        self.dino_center = Center(len(dino_head.last_layer.weight_g))
        self.ibot_center = Center(len(patch_head.last_layer.weight_g), mean_of_ranks=True)

    def forward(
        self, views: Views, teacher_temperature: float, permutation: Permutation | None = None
    ) -> Losses:
        """Compute the loss of one batch; `permutation` is the source of stochastic depth."""
        targets = self._targets(views, teacher_temperature)
        crops, local = self._student_tokens(views, permutation)
        cls_BD, cls_LD = crops["x_norm_clstoken"], local["x_norm_clstoken"]
        patches_MD = crops["x_norm_patchtokens"].flatten(0, 1)[views.mask_indices_M]

        head, patch_head = _heads(self.student)
        scores = head(torch.cat([cls_BD, cls_LD])).split([len(cls_BD), len(cls_LD)])
        dino_local, dino_global = dino_loss(targets.cls_BK, *scores)
        zero = dino_global.new_zeros(())
        ibot = koleo = zero
        if self.weights[1]:
            num_crops = len(cls_BD)
            ibot = ibot_loss(
                targets.patch_MK, patch_head(patches_MD), views.mask_weights_M, num_crops
            )
        if self.weights[2]:
            koleo = sum((koleo_loss(crop_BD) for crop_BD in cls_BD.chunk(2)), start=zero)
        total = (
            self.weights[0] * (dino_local + dino_global)
            + self.weights[1] * ibot
            + self.weights[2] * koleo
        )
        return Losses(
            total, dino_local, dino_global, ibot, koleo, targets.cls_BK, targets.features_BD
        )

    @torch.no_grad()
    def _targets(self, views: Views, temperature: float) -> _Targets:
        """Let the teacher see the unmasked global crops and balance what it says."""
        backbone = self.teacher["backbone"]
        assert isinstance(backbone, VisionTransformer)
        tokens = backbone.forward_features(views.global_crops)
        cls_BD = tokens["x_norm_clstoken"]
        head, patch_head = _heads(self.teacher)
        cls_BK = self._balanced(head(cls_BD), self.dino_center, temperature)
        if not self.weights[1]:
            return _Targets(cls_BK, cls_BK[:0], cls_BD)
        patches_MD = tokens["x_norm_patchtokens"].flatten(0, 1)[views.mask_indices_M]
        patch_MK = self._balanced(patch_head(patches_MD), self.ibot_center, temperature)
        return _Targets(cls_BK, patch_MK, cls_BD)

    def _balanced(self, scores: Tensor, center: Center, temperature: float) -> Tensor:
        if self.balance == "sinkhorn":
            return sinkhorn_knopp(scores, temperature)
        targets = center.targets(scores, temperature)
        center.update(scores)  # seen by the next step only
        return targets

    def _student_tokens(
        self, views: Views, permutation: Permutation | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        backbone = self.student["backbone"]
        assert isinstance(backbone, VisionTransformer)
        masks = views.masks_BN if self.weights[1] else None
        crops, local = backbone.forward_features_list(
            [views.global_crops, views.local_crops],
            [masks, None],
            drop_path=self.drop_path,
            permutation=permutation,
        )
        return crops, local

    def train(self, mode: bool = True) -> "Method":
        """Switch the student only: the teacher always runs in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


def _heads(networks: nn.ModuleDict) -> tuple[nn.Module, nn.Module]:
    dino = networks["dino_head"]
    # ModuleDict has no get
    return dino, networks["ibot_head"] if "ibot_head" in networks else dino  # noqa: SIM401


def _copy(student: nn.ModuleDict) -> nn.ModuleDict:
    """Copy every weight, heads included: a teacher with other heads aims at noise."""
    import copy

    teacher = copy.deepcopy(student)
    teacher.requires_grad_(requires_grad=False)
    return teacher.eval()
