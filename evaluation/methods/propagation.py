"""Annotations as labels of patches that are propagated, and back; see `neighbors.propagation`.

Shapes: X rows and Y columns of patches, C labels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.masks import VOID

__all__ = ["label_map", "soft_labels", "vanished_objects"]


def soft_labels(labels_XY: NDArray[np.integer], rows: int, columns: int) -> Tensor:
    """Sample an annotation at the centers of patches: one-hot, float32 ``[rows, columns, C]``.

    C is the largest label of the annotation, plus one for the background, which pixels without an
    annotation (255) belong to.
    """
    labels_XY = np.where(labels_XY == VOID, 0, labels_XY).astype(np.int64)
    small = torch.from_numpy(resize_nearest(labels_XY, rows, columns))
    return F.one_hot(small, int(labels_XY.max(initial=0)) + 1).float()


def vanished_objects(labels_XY: NDArray[np.integer], first_XYC: Tensor) -> list[int]:
    """List the objects of an annotation that no patch of `soft_labels` has: never predicted."""
    sampled = first_XYC.amax((0, 1)).nonzero()[:, 0].tolist()
    return sorted(set(np.unique(labels_XY).tolist()) - {0, VOID, *sampled})


def label_map(soft_XYC: Tensor, patch_size: int, height: int, width: int) -> NDArray[np.uint8]:
    """Decide the label of every pixel: uint8 ``[height, width]``.

    Bilinear upsampling to the size of the network's input, every label stretched to [0, 1], the
    largest one, nearest to the size of the annotation.
    """
    soft_1CXY = soft_XYC.permute(2, 0, 1)[None]
    soft_CXY = F.interpolate(soft_1CXY, scale_factor=float(patch_size), mode="bilinear")[0]
    low, high = soft_CXY.amin((1, 2), keepdim=True), soft_CXY.amax((1, 2), keepdim=True)
    # A constant label stays as it is, where the published code divides 0 by 0.
    stretched = torch.where(high > low, (soft_CXY - low) / (high - low), soft_CXY)
    labels = stretched.argmax(dim=0).cpu().numpy().astype(np.uint8)
    return resize_nearest(labels, height, width)
