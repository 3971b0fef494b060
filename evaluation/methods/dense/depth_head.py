"""Linear depth: every patch votes for 256 depths; the mean of the votes is the depth.

The linear protocols of DINOv2 (section 7.4) and DINOv3: lin.1 sees one block, lin.4 four. Three
faults of the published code are not copied: the range of depths is that of the data set (the hub's
heads use 80 m throughout), the gradient loss compares neighboring rows and columns (not images),
and logarithmic bins are spaced between the logarithms of the range.

Shapes: B images, X x Y patches, K bins, H x W pixels. Depths are in meters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.config.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from dinoforge.evaluation.methods.dense.linear_head import (
    Batches,
    HeadTraining,
    LinearHead,
    train_linear,
)
from dinoforge.evaluation.methods.dense.upsampling import upsample

__all__ = [
    "DepthBins",
    "DepthLoss",
    "average_with_mirrored",
    "expected_depth",
    "gradient_loss",
    "predict_depth",
    "sig_loss",
    "train_depth",
]

_LOG_EPS = 1e-3  # added to depths before logarithms in the losses
_RELU_EPS = 0.1  # of the linear normalization: the sum stays positive without a positive vote


@dataclass(frozen=True, kw_only=True)
class DepthBins:
    """The depths that patches vote for, and how votes become shares (AdaBins, Bhat et al. 2021)."""

    max_depth: PositiveFloat
    min_depth: PositiveFloat = 1e-3
    count: PositiveInt = 256
    spacing: Literal["linear", "log"] = "linear"
    # linear: relu(logit) + 0.1, divided by the sum
    normalization: Literal["linear", "softmax", "sigmoid"] = "linear"
    scale: PositiveInt = 4  # how many times logits are upsampled before they become depths

    def depths(self) -> Tensor:
        """Return the depth of every bin, float64 ``[K]``, ascending."""
        low, high = self.min_depth, self.max_depth
        if self.spacing == "log":
            low, high = math.log(low), math.log(high)
        depths = torch.linspace(low, high, self.count, dtype=torch.float64)
        return depths.exp() if self.spacing == "log" else depths


@dataclass(frozen=True, kw_only=True)
class DepthLoss:
    """The loss: SigLoss, and the gradient loss by its weight."""

    warmup: NonNegativeFloat = 0.1  # share of the steps with the warm-up form (DINOv2: 100 steps)
    gradient_weight: NonNegativeFloat = 0.0  # DINOv2's DPT heads: 0.5


def expected_depth(logits_BKHW: Tensor, bins: DepthBins) -> Tensor:
    """Return the mean depth under the votes of every pixel, ``[B, H, W]``."""
    depths_K = bins.depths().to(logits_BKHW)
    if bins.normalization == "linear":
        # The sums of the votes, weighted by depth and not: one product, no table of shares.
        votes = logits_BKHW.flatten(2).relu()
        sides = torch.stack([depths_K, torch.ones_like(depths_K)])
        sums = sides @ votes + _RELU_EPS * sides.sum(dim=1, keepdim=True)
        return (sums[:, 0] / sums[:, 1]).unflatten(1, logits_BKHW.shape[2:])
    if bins.normalization == "softmax":
        shares = logits_BKHW.softmax(dim=1)
    else:
        votes = logits_BKHW.sigmoid()
        shares = votes / votes.sum(dim=1, keepdim=True)
    return torch.einsum("bkhw,k->bhw", shares, depths_K)


def sig_loss(
    predicted: Tensor, truth: Tensor, *, max_depth: float, warming_up: bool = False
) -> Tensor:
    """Scale-invariant log loss (Eigen et al. 2014): root of variance + 0.15 squared mean.

    Of g = log(predicted + 0.001) - log(truth + 0.001) over all pixels of the batch with a true
    depth in (0, ``max_depth``], in nats; the variance is the unbiased one. While warming up the
    variance is left out. 0 with fewer than 2 such pixels.
    """
    g = _log_ratio(predicted, truth)[_valid(truth, max_depth)]
    if len(g) < 2:
        return predicted.sum() * 0
    spread = 0.15 * g.mean() ** 2
    return (spread if warming_up else g.var() + spread).sqrt()


def gradient_loss(predicted: Tensor, truth: Tensor, *, max_depth: float) -> Tensor:
    """Mean difference of log-ratio gradients at four scales (MegaDepth, Li and Snavely 2018).

    At strides 1, 2, 4 and 6, over pixels two rows or two columns apart that are both valid, divided
    by the number of valid pixels at that scale. Maps are ``[..., H, W]``.
    """
    total = predicted.sum() * 0
    for stride in (1, 2, 4, 6):
        p, t = (depth[..., ::stride, ::stride] for depth in (predicted, truth))
        valid = _valid(t, max_depth)
        g = torch.where(valid, _log_ratio(p, t), 0)
        down = (g[..., :-2, :] - g[..., 2:, :]).abs() * (valid[..., :-2, :] & valid[..., 2:, :])
        right = (g[..., :-2] - g[..., 2:]).abs() * (valid[..., :-2] & valid[..., 2:])
        total = total + (down.sum() + right.sum()) / valid.sum().clamp(min=1)
    return total


def _valid(truth: Tensor, max_depth: float) -> Tensor:
    return (truth > 0) & (truth <= max_depth)


def _log_ratio(predicted: Tensor, truth: Tensor) -> Tensor:
    return (predicted + _LOG_EPS).log() - (truth + _LOG_EPS).log()


def train_depth(
    batches: Batches,
    *,
    dim: int,
    bins: DepthBins,
    settings: HeadTraining,
    loss: DepthLoss | None = None,
    batch_norm: bool,
    device: str = "cpu",
) -> tuple[LinearHead, list[float]]:
    """Train a depth head; return it in evaluation mode, and the loss of every step.

    ``batches`` give features of ``dim`` channels and true depths ``[B, H, W]``, 0 where unknown.
    Depths are resampled to H x W for the loss.

    Raises
    ------
    UsageError
        If the loss is not finite.
    """
    loss = loss or DepthLoss()
    head = LinearHead(dim, bins.count, batch_norm=batch_norm, seed=settings.seed).to(device)

    def loss_of(logits: Tensor, truth: Tensor, step: int) -> Tensor:
        predicted = _depth_at(logits, bins, truth.shape[-2:])
        warming_up = step < loss.warmup * settings.steps
        total = sig_loss(predicted, truth, max_depth=bins.max_depth, warming_up=warming_up)
        if loss.gradient_weight:
            by_gradient = gradient_loss(predicted, truth, max_depth=bins.max_depth)
            total = total + loss.gradient_weight * by_gradient
        return total

    return head, train_linear(head, batches, loss_of, settings)


@torch.no_grad()
def predict_depth(logits_BKXY: Tensor, bins: DepthBins, size: Sequence[int]) -> NDArray[np.float32]:
    """Return depths within the range of the bins, ``[B, H, W]``."""
    return _depth_at(logits_BKXY, bins, size).cpu().numpy()


def _depth_at(logits_BKXY: Tensor, bins: DepthBins, size: Sequence[int]) -> Tensor:
    fine = upsample(logits_BKXY, [bins.scale * side for side in logits_BKXY.shape[-2:]])
    depth = expected_depth(fine, bins).clamp(bins.min_depth, bins.max_depth)
    return upsample(depth[:, None], size)[:, 0]


def average_with_mirrored(
    depth: NDArray[np.float32], of_mirrored: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Flip test: average depths ``[..., H, W]`` with those of the image mirrored left to right."""
    return ((depth + of_mirrored[..., ::-1]) / 2).astype(np.float32)
