"""Block masks of iBOT: which patches of which global crops are hidden from the student.

Shapes: B global crops, N = rows * columns patches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from dinoforge.errors import Fault
from dinoforge.randomness import Draws

__all__ = ["BatchMasks", "MaskConfig", "MaskDraws", "block_mask", "collate_masks", "draw_masks"]

_MIN_PATCHES = 4  # smallest area that a block is drawn with
_MIN_ASPECT = 0.3
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Masking of the global crops (DINOv2, appendix B.1)."""

    image_prob: float = 0.5  # share of the global crops that are masked
    # masked share of the patches of a masked crop, lowest and highest; spread evenly between
    ratio: tuple[float, float] = (0.1, 0.5)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find shares outside 0..1."""
        low, high = self.ratio
        if not 0 <= self.image_prob <= 1:
            yield Fault(f"`{at}.image_prob` is {self.image_prob}", "recipe", "give 0 to 1")
        if not 0 <= low <= high <= 1:
            yield Fault(f"`{at}.ratio` is {self.ratio}", "recipe", "give 0 <= low <= high <= 1")


class MaskDraws(Protocol):
    """Where `block_mask` gets its random numbers from."""

    def uniform(self, low: float, high: float) -> float:
        """Draw from [low, high)."""

    def integer(self, low: int, high: int) -> int:
        """Draw from low, ..., high - 1."""


@dataclass(frozen=True)
class BatchMasks:
    """Masks of one batch, as the student and the iBOT loss want them."""

    masks_BN: npt.NDArray[np.bool_]
    indices_M: npt.NDArray[np.int64]  # of the masked patches in the flat [B * N]
    weights_M: npt.NDArray[np.float32]  # 1 / masked patches of the same crop


def block_mask(rows: int, columns: int, target: int, draws: MaskDraws) -> npt.NDArray[np.bool_]:
    """Cover about ``target`` patches with rectangles (BEiT, Bao et al. 2022, algorithm 1).

    Rectangles are added until the target is met or ten tries in a row add nothing; the target is
    never exceeded and may be missed.

    Returns
    -------
    ndarray of bool
        ``[rows, columns]``, True = hidden.
    """
    mask = np.zeros((rows, columns), np.bool_)
    low, high = math.log(_MIN_ASPECT), math.log(1 / _MIN_ASPECT)
    masked = 0
    while masked < target:
        added = 0
        for _ in range(_TRIES):
            area = draws.uniform(_MIN_PATCHES, target - masked)
            aspect = math.exp(draws.uniform(low, high))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if not (width < columns and height < rows):
                continue
            top = draws.integer(0, rows - height + 1)
            left = draws.integer(0, columns - width + 1)
            block = mask[top : top + height, left : left + width]
            new = block.size - int(block.sum())
            if 0 < new <= target - masked:
                block[:] = True
                added = new
                break
        if added == 0:
            break
        masked += added
    return mask


def draw_masks(
    num_crops: int, rows: int, columns: int, config: MaskConfig, draws: Draws
) -> BatchMasks:
    """Draw the masks of one batch of global crops.

    Of ``num_crops`` crops ``int(num_crops * image_prob)`` are masked. The i-th of them gets its
    ratio from the i-th slice of an even division of ``ratio``, so that a batch always has the
    whole range; then the masks are shuffled over the crops.
    """
    num_patches = rows * columns
    num_masked = int(num_crops * config.image_prob)
    # In float32 and by torch, as published: another rounding moves a target by one now and then.
    edges = torch.linspace(*config.ratio, num_masked + 1, dtype=torch.float32).tolist()
    masks = np.zeros((num_crops, num_patches), np.bool_)
    for i in range(num_masked):
        target = int(num_patches * draws.uniform(edges[i], edges[i + 1]))
        masks[i] = block_mask(rows, columns, target, draws).ravel()
    return collate_masks(masks[draws.shuffle(num_crops)])


def collate_masks(masks_BN: npt.NDArray[np.bool_]) -> BatchMasks:
    """Derive indices and weights from masks."""
    counts_B = masks_BN.sum(axis=1)
    weights_B = (1 / np.maximum(counts_B, 1)).astype(np.float32)
    indices_M = np.flatnonzero(masks_BN)
    return BatchMasks(
        masks_BN=masks_BN,
        indices_M=indices_M,
        weights_M=weights_B[indices_M // masks_BN.shape[1]],
    )
