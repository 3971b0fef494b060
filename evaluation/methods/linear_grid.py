"""The linear probes of DINO and DINOv2 on frozen features: all heads in one optimization.

DINOv2 trains a head for every rate, number of blocks, and with and without the mean of the patch
tokens (its ``eval/linear.py``; section 7.1): 13 x 2 x 2 = 52. They see the same batches, so the
weights of all heads that read a slot are stacked and multiplied with it once per step; the
gradients of linear heads are products, too. Which head to keep is not decided here but in
`linear_choice`.

Shapes: n images, B images per step, S slots, D dimensions, K classes, H heads. The slots of an
image are the class tokens of the last blocks, oldest first, and behind them, if anything reads it,
the mean of the last block's patch tokens (final LayerNorm applied to all).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.evaluation.settings import LinearConfig
from dinoforge.randomness import KeyedPermutation

__all__ = [
    "Head",
    "LinearHeads",
    "Probe",
    "Slots",
    "Views",
    "cached",
    "keyed_batches",
    "stack_slots",
    "train_heads",
]

# (rows, step) -> slots [B, S, D] of these training images; another step may give other crops.
Views = Callable[[NDArray[np.int64], int], Tensor]

_SCORES_AT_ONCE = 1 << 24  # when predicting: heads x classes x images


@dataclass(frozen=True)
class Head:
    """What one linear head reads, and its learning rate before scaling by the batch size."""

    rate: float
    blocks: int
    average_patches: bool


@dataclass(frozen=True)
class Slots:
    """The slots that images have: class tokens of ``blocks`` blocks, then the patch mean."""

    blocks: int
    has_patch_mean: bool
    dim: int

    def columns(self, head: Head) -> slice:
        """Columns of a flattened row that a head reads: last blocks, then the patch mean."""
        end = self.blocks * self.dim
        return slice(end - head.blocks * self.dim, end + head.average_patches * self.dim)

    def check(self, config: LinearConfig) -> None:
        """Raise `UsageError` if a head would read a slot that there is not."""
        most = max(config.blocks)
        if most > self.blocks:
            raise UsageError(
                what=f"heads read {most} blocks, the features have {self.blocks}",
                where="`blocks`",
                do=f"give at most {self.blocks}",
            )
        if any(config.average_patches) and not self.has_patch_mean:
            raise UsageError(
                what="heads read the mean of the patch tokens, which the features lack",
                where="`average_patches`",
                do="give average_patches=[false]",
            )


@dataclass(frozen=True)
class Probe:
    """One trained head; reads the slots of any images."""

    head: Head
    slots: Slots
    weights: Tensor  # [K, columns read]
    bias: Tensor  # [K]

    def scores(self, slots_nSD: Tensor) -> Tensor:
        """Return logits ``[n, K]``."""
        read = slots_nSD.flatten(1)[:, self.slots.columns(self.head)]
        return torch.addmm(self.bias, read.to(self.bias), self.weights.T)


class LinearHeads:
    """The weights of all heads, stacked by the slots that they read; heads of one input adjoin.

    Weights start as N(0, 0.01), keyed by ``seed`` and input, so heads that differ only in their
    rate start alike; biases are 0. ``like`` gives device and dtype, at least float32.
    """

    def __init__(
        self, config: LinearConfig, slots: Slots, num_classes: int, *, seed: int, like: Tensor
    ) -> None:
        slots.check(config)
        self.slots, self.num_classes = slots, num_classes
        # Features may be kept in half precision; heads are not.
        self._like = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        self.heads = [Head(r, b, a) for b, a in config.inputs for r in config.rates]
        self.bias = self._like.new_zeros(len(self.heads) * num_classes)
        self.parts = self._parts(config)
        self.weights = [self._zeros(*part) for part in self.parts]
        for at in range(0, len(self.heads), len(config.rates)):
            initial = self._draw(self.heads[at], seed)
            for number in range(at, at + len(config.rates)):
                self.set_weights(number, initial)

    def _parts(self, config: LinearConfig) -> list[tuple[slice, slice]]:
        """Pairs of rows of the stack and columns: every row reads the columns of the first."""
        each = len(config.rates) * self.num_classes
        parts: dict[tuple[int, int], list[int]] = {}
        for slot in range(self.slots.blocks + self.slots.has_patch_mean):
            readers = [
                number
                for number, (blocks, average) in enumerate(config.inputs)
                if (average if slot == self.slots.blocks else slot >= self.slots.blocks - blocks)
            ]
            if readers:
                parts.setdefault((readers[0], readers[-1] + 1), []).append(slot)
        return [
            (
                slice(first * each, last * each),
                slice(used[0] * self.slots.dim, (used[-1] + 1) * self.slots.dim),
            )
            for (first, last), used in sorted(parts.items(), key=lambda p: p[0][0] - p[0][1])
        ]

    def _zeros(self, rows: slice, columns: slice) -> Tensor:
        return self._like.new_zeros(rows.stop - rows.start, columns.stop - columns.start)

    def _draw(self, head: Head, seed: int) -> Tensor:
        text = f"{seed}\x00evaluation/linear/{head.blocks}/{head.average_patches}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        columns = self.slots.columns(head)
        shape = (self.num_classes, columns.stop - columns.start)
        return (0.01 * torch.randn(shape, generator=generator)).to(self._like)

    def set_weights(self, number: int, weights: Tensor) -> None:
        """Set the weights of a head, ``[K, columns read]``."""
        for into, part in self._blocks(number):
            into.copy_(weights[:, part])

    def _blocks(self, number: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield views of a head's weights in the stack, with the columns of its own there."""
        low, start = number * self.num_classes, self.slots.columns(self.heads[number]).start
        for (rows, columns), weights in zip(self.parts, self.weights, strict=True):
            if rows.start <= low < rows.stop:
                at = low - rows.start
                of_head = weights[at : at + self.num_classes]
                yield of_head, slice(columns.start - start, columns.stop - start)

    def probe(self, number: int) -> Probe:
        """Copy one head out."""
        blocks = sorted(self._blocks(number), key=lambda block: block[1].start)
        low = number * self.num_classes
        bias = self.bias[low : low + self.num_classes].clone()
        return Probe(self.heads[number], self.slots, torch.cat([w for w, _ in blocks], 1), bias)

    def logits(self, rows_BF: Tensor) -> Tensor:
        """Return logits of all heads ``[H, K, B]`` for flattened slots."""
        (_, first), *rest = self.parts
        result = torch.addmm(self.bias[:, None], self.weights[0], rows_BF[:, first].T)
        for (rows, columns), weights in zip(rest, self.weights[1:], strict=True):
            result[rows].addmm_(weights, rows_BF[:, columns].T)
        return result.view(len(self.heads), self.num_classes, len(rows_BF))

    def predict(self, slots_nSD: Tensor) -> Tensor:
        """Return the class of every image by every head, ``[H, n]``; of equals the smaller."""
        step = max(1, _SCORES_AT_ONCE // len(self.bias))
        parts = slots_nSD.flatten(1).split(step)
        return torch.cat([self.logits(part.to(self.bias)).argmax(1) for part in parts], 1)

    def is_finite(self) -> Tensor:
        """Return which heads did not diverge, bool ``[H]``."""
        return self.bias.view(len(self.heads), -1).isfinite().all(dim=1)

    @cached_property
    def _one_hot(self) -> Tensor:
        return torch.eye(self.num_classes).to(self._like)

    def errors(self, rows_BF: Tensor, labels_B: Tensor) -> Tensor:
        """Gradient of the summed cross-entropies in the logits: ``[H K, B]``."""
        probabilities = torch.softmax(self.logits(rows_BF), dim=1)
        return probabilities.sub_(self._one_hot[:, labels_B]).flatten(0, 1)


def stack_slots(layers: Sequence[tuple[Tensor, Tensor]], *, patch_mean: bool = True) -> Tensor:
    """Make slots ``[B, S, D]`` of the last blocks' patch tokens and class tokens, oldest first.

    ``layers`` as `VisionTransformer.get_intermediate_layers` returns them.
    """
    slots = [class_BD for _, class_BD in layers]
    return torch.stack([*slots, layers[-1][0].mean(dim=1)] if patch_mean else slots, dim=1)


def cached(slots_nSD: Tensor) -> Views:
    """Make `Views` of features that were extracted once: the same for every step."""
    flat = slots_nSD.flatten(1)

    def views(rows: NDArray[np.int64], step: int) -> Tensor:  # noqa: ARG001 - always the same
        at = torch.from_numpy(rows).to(flat.device)
        return flat.index_select(0, at).view(-1, *slots_nSD.shape[1:])

    return views


def keyed_batches(num: int, batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of rows without end: pass after pass, each in a keyed order of its own."""
    left = np.empty(0, np.int64)
    number = 0
    while True:
        while len(left) < batch_size:
            order = KeyedPermutation(num, seed, "evaluation/linear", epoch=number)
            left = np.concatenate([left, order[np.arange(num)]])
            number += 1
        yield left[:batch_size]
        left = left[batch_size:]


@torch.no_grad()
def train_heads(
    views: Views,
    labels: NDArray[np.int64],
    heads: LinearHeads,
    *,
    config: LinearConfig,
    batches: Iterator[NDArray[np.int64]],
    epochs: int | None = None,
) -> Iterator[int]:
    """Train all heads in place by SGD with momentum, without weight decay.

    ``labels`` are classes 0 .. K - 1 of the rows that ``batches`` name. Yields the number of epochs
    done, after each; ``epochs`` ends before the schedule does. A rate that diverges gives a head
    with NaN and leaves the others alone. Needs twice H x K x B numbers for the logits.
    """
    targets = torch.from_numpy(labels).to(heads.bias.device)
    steps = config.steps_per_epoch(len(labels))
    rates = heads.bias.new_tensor([head.rate for head in heads.heads]) * config.batch_size / 256
    rates_HK = rates.repeat_interleave(heads.num_classes)
    velocities = [torch.zeros_like(weights) for weights in heads.weights]
    bias_velocity = torch.zeros_like(heads.bias)
    for step in range(steps * (config.epochs if epochs is None else epochs)):
        done = step // steps if config.decay == "epoch" else step / steps
        factor = 0.5 * (1.0 + math.cos(math.pi * done / config.epochs))
        rows = next(batches)
        flat = views(rows, step).flatten(1).to(heads.bias)
        at = torch.from_numpy(rows).to(targets.device)
        errors = heads.errors(flat, targets[at])
        parts = zip(heads.parts, heads.weights, velocities, strict=True)
        for (of_part, columns), weights, velocity in parts:
            velocity.addmm_(
                errors[of_part], flat[:, columns], beta=config.momentum, alpha=1 / len(rows)
            )
            weights.addcmul_(velocity, rates_HK[of_part, None], value=-factor)
        bias_velocity.mul_(config.momentum).add_(errors.sum(dim=1), alpha=1 / len(rows))
        heads.bias.addcmul_(bias_velocity, rates_HK, value=-factor)
        if (step + 1) % steps == 0:
            yield (step + 1) // steps
