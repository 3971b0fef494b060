"""The trained part of a dense head: batch normalization and one linear layer on patch features.

A 1 x 1 convolution over patches is a linear layer, and bilinear upsampling commutes with it, so
logits are upsampled instead of features. Training sees patch features only: cached ones, or those
of augmented views, as the caller's batches have it.

Shapes: n images, B images per batch, X x Y patches, D dimensions per layer, C inputs, K outputs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dinoforge.config.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Range
from dinoforge.errors import UsageError
from dinoforge.randomness import KeyedPermutation

__all__ = [
    "Batches",
    "HeadTraining",
    "LinearHead",
    "PatchFeatures",
    "keyed_batches",
    "learning_rate",
    "train_linear",
]

Batches = Callable[[int], tuple[Tensor, Tensor]]  # step -> features [B, X, Y, C], truth [B, H, W]

_EPS, _MOMENTUM = 1e-5, 0.1  # of batch normalization, the defaults of torch


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a dense head is trained: AdamW, linear warm-up, cosine to 0."""

    steps: PositiveInt = 300  # updates; DINOv3 trains for 40,000 on ADE20K
    batch_size: PositiveInt = 16  # images per step
    # after warm-up; for a few hundred steps. 1e-3 belongs to 40,000: in 300 it does not converge
    lr: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 1e-3  # of AdamW, of all parameters
    warmup: Annotated[Fraction, Range(0, 1, exclude=(1,))] = 0.05  # share of the steps
    seed: int = 0  # keys initial weights and batches


class LinearHead(nn.Module):
    """Normalize features over the patches of the batch, then map them to K logits.

    Input features have no gradient, so normalization is folded into the linear layer: its
    statistics are constants, and no normalized copy of the features is made. In evaluation mode the
    running statistics are used.
    """

    norm_mean: Tensor
    norm_var: Tensor

    def __init__(self, dim: int, outputs: int, *, batch_norm: bool = True, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.empty(outputs, dim).normal_(0, 0.01, generator=generator))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.has_norm = batch_norm
        if batch_norm:
            self.norm_weight = nn.Parameter(torch.ones(dim))
            self.norm_bias = nn.Parameter(torch.zeros(dim))
            self.register_buffer("norm_mean", torch.zeros(dim))
            self.register_buffer("norm_var", torch.ones(dim))

    def forward(self, x_BXYC: Tensor) -> Tensor:
        """Return logits ``[B, K, X, Y]``."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.has_norm:
            mean, var = self._statistics(x_BXYC.detach())
            scale = self.norm_weight * (var + _EPS).rsqrt()
            bias = bias + weight @ (self.norm_bias - scale * mean)
            weight = weight * scale
        return F.linear(x_BXYC, weight, bias).permute(0, 3, 1, 2)

    def _statistics(self, x_BXYC: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.norm_mean, self.norm_var
        rows = x_BXYC.flatten(0, 2)
        n = len(rows)
        # Column sums as products: four times as fast as `torch.var_mean` on a CPU.
        ones = rows.new_ones(n)
        mean = ones @ rows / n
        centered = rows - mean
        var = ones @ centered.mul_(centered) / n
        with torch.no_grad():
            # As in torch, the running variance is the unbiased one.
            self.norm_mean.lerp_(mean, _MOMENTUM)
            self.norm_var.lerp_(var * (n / max(n - 1, 1)), _MOMENTUM)
        return mean, var


class PatchFeatures:
    """Patch features of images on grids of one size, gathered by rows in float32.

    ``layers`` are arrays ``[n, X, Y, D]`` (memory maps, too), concatenated in order;
    ``class_tokens`` ``[n, D]``, none or one per layer, are repeated beside its patches.
    """

    def __init__(self, layers: Sequence[Any], class_tokens: Sequence[Any] = ()) -> None:
        assert len(class_tokens) in {0, len(layers)}, "one class token per layer"
        parts: list[Any] = []
        for number, layer in enumerate(layers):
            parts.append(layer)
            parts += class_tokens[number : number + 1]
        self._parts = parts
        self.grid: tuple[int, int] = layers[0].shape[1:3]
        self.dim: int = sum(part.shape[-1] for part in parts)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._parts[0])

    def rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the features of some images, ``[B, X, Y, C]``."""
        x = torch.empty(len(rows), *self.grid, self.dim)
        start = 0
        for part in self._parts:
            end = start + part.shape[-1]
            values = torch.from_numpy(part[rows])
            x[..., start:end] = values if values.ndim == 4 else values[:, None, None]
            start = end
        return x


def keyed_batches(features: PatchFeatures, truths: NDArray[Any], settings: HeadTraining) -> Batches:
    """Draw batches of cached features by keys: step s sees positions s * B and on of a shuffle.

    Every pass over the images has an order of its own. ``truths`` are ``[n, H, W]``.
    """
    n, size = len(features), settings.batch_size

    def batch(step: int) -> tuple[Tensor, Tensor]:
        positions = np.arange(step * size, (step + 1) * size)
        epochs = positions // n
        rows = np.empty(size, np.int64)
        for epoch in np.unique(epochs).tolist():
            order = KeyedPermutation(n, settings.seed, "evaluation/dense", epoch)
            rows[epochs == epoch] = order[positions[epochs == epoch] % n]
        return features.rows(rows), torch.from_numpy(truths[rows])

    return batch


def learning_rate(step: int, settings: HeadTraining) -> float:
    """Return the rate of a step: linear from 0 during warm-up, then half a cosine to 0."""
    warmup = round(settings.warmup * settings.steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(settings.steps - warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train_linear(
    head: LinearHead,
    batches: Batches,
    loss_of: Callable[[Tensor, Tensor, int], Tensor],
    settings: HeadTraining,
) -> list[float]:
    """Train a head in place, then put it in evaluation mode; return the loss of every step.

    ``loss_of(logits [B, K, X, Y], truth, step)`` is a scalar. The head stays on its device.

    Raises
    ------
    UsageError
        If the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    device = head.weight.device
    losses = []
    head.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        features, truth = (tensor.to(device) for tensor in batches(step))
        loss = loss_of(head(features), truth, step)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UsageError(
                what=f"the loss is {losses[-1]} at step {step}",
                where="training of a dense head",
                do=f"lower the learning rate, {settings.lr:g}",
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    return losses
