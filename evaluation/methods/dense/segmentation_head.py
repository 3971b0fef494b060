"""Linear segmentation: batch normalization and a 1 x 1 convolution on frozen patch features.

The linear protocol of DINOv2 (section 7.4) and DINOv3: features of the last block, or of the last
four concatenated; cross-entropy on logits that are upsampled bilinearly to the label grid. Not for
decoders of several layers.

Shapes: B images, X x Y patches, C inputs, K classes, H x W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.evaluation.methods.dense.linear_head import (
    Batches,
    HeadTraining,
    LinearHead,
    train_linear,
)
from dinoforge.evaluation.methods.dense.upsampling import upsample

__all__ = ["predict_labels", "segmentation_loss", "train_segmentation"]


def segmentation_loss(logits_BKXY: Tensor, labels_BHW: Tensor, ignore_index: int = 255) -> Tensor:
    """Return the mean cross-entropy over the pixels that are not ignored; 0 without any."""
    upsampled = upsample(logits_BKXY, labels_BHW.shape[-2:])
    labels = labels_BHW.long()
    total = F.cross_entropy(upsampled, labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def train_segmentation(
    batches: Batches,
    *,
    dim: int,
    num_classes: int,
    settings: HeadTraining,
    ignore_index: int = 255,
    device: str = "cpu",
) -> tuple[LinearHead, list[float]]:
    """Train a head; return it in evaluation mode, and the loss of every step.

    ``batches`` give features of ``dim`` channels and labels ``[B, H, W]`` of any integer type,
    already checked (see `confusion_matrix`): the logits are upsampled to H x W.

    Raises
    ------
    UsageError
        If the loss is not finite.
    """
    head = LinearHead(dim, num_classes, seed=settings.seed).to(device)
    losses = train_linear(
        head,
        batches,
        lambda logits, labels, _: segmentation_loss(logits, labels, ignore_index),
        settings,
    )
    return head, losses


@torch.no_grad()
def predict_labels(logits_BKXY: Tensor, size: Sequence[int]) -> NDArray[np.int64]:
    """Return the most likely class of every pixel, ``[B, H, W]``; of equal ones the smallest."""
    return upsample(logits_BKXY, size).argmax(dim=1).cpu().numpy()
