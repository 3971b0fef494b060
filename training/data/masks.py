"""Block masks of iBOT: which patches of which global crops are hidden from the student.

Shapes: B global crops, N = rows * columns patches.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dinoforge.config.ranges import Fraction
from dinoforge.errors import Fault
from dinoforge.randomness import Draws, uniforms

__all__ = [
    "BatchMasks",
    "MaskConfig",
    "all_patches",
    "block_mask",
    "collate_masks",
    "draw_masks",
    "expected_masked",
    "most_masked",
    "slot_mask",
]

_MIN_PATCHES = 4  # smallest area that a block is drawn with
_MIN_ASPECT = 0.3
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Masking of the global crops (DINOv2, appendix B.1)."""

    image_prob: Fraction = 0.5  # share of the global crops that are masked
    # masked share of the patches of a masked crop, lowest and highest; spread evenly between
    ratio: tuple[Fraction, Fraction] = (0.1, 0.5)

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield a reversed range."""
        low, high = self.ratio
        if low > high:
            yield Fault(f"`{at}.ratio` is {[low, high]}", "recipe", "give 0 <= low <= high <= 1")


@dataclass(frozen=True)
class BatchMasks:
    """Masks of one batch, as the student and the iBOT loss take them."""

    masks_BN: npt.NDArray[np.bool_]
    indices_M: npt.NDArray[np.int64]  # of the masked patches (`all_patches`) in the flat [B * N]
    weights_M: npt.NDArray[np.float32]  # 1 / masked patches of the same crop


def block_mask(rows: int, columns: int, target: int, draws: Draws) -> npt.NDArray[np.bool_]:
    """Cover about ``target`` patches with rectangles (BEiT, Bao et al. 2022, algorithm 1).

    Rectangles are added until the target is reached or ten tries in a row add nothing; the target
    is never exceeded and may be missed. Returns a mask ``[rows, columns]``, True = hidden.
    """
    mask = np.zeros((rows, columns), np.bool_)
    low, high = math.log(_MIN_ASPECT), math.log(1 / _MIN_ASPECT)
    masked = 0
    while masked < target:
        for _ in range(_TRIES):
            area = draws.uniform(_MIN_PATCHES, target - masked)
            aspect = math.exp(draws.uniform(low, high))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if width >= columns or height >= rows:
                continue
            top = draws.integer(0, rows - height + 1)
            left = draws.integer(0, columns - width + 1)
            block = mask[top : top + height, left : left + width]
            new = block.size - int(block.sum())
            if 0 < new <= target - masked:
                block[:] = True
                masked += new
                break
        else:
            break
    return mask


def draw_masks(
    num_crops: int,
    rows: int,
    columns: int,
    config: MaskConfig,
    *,
    seed: int,
    step: int,
    crops: npt.NDArray[np.int64] | None = None,
) -> BatchMasks:
    """Draw the masks of some global crops of a step.

    Of ``num_crops`` crops ``int(num_crops * image_prob)`` are masked. The i-th of these slots draws
    its ratio from the i-th slice of an even division of ``ratio``, so that every step covers the
    whole range; slots are shuffled over the crops. A mask is a function of (seed, step, slot):
    ranks that draw only their own crops agree on all of them.

    ``num_crops`` counts those of all ranks; ``crops`` are the wanted ones, in this order; default:
    all. ``rows`` and ``columns`` are the grid of patches.
    """
    num_masked = int(num_crops * config.image_prob)
    slots = uniforms(seed, "masks/slots", [step], count=num_crops)[0].argsort(kind="stable")
    slots = slots if crops is None else slots[crops]
    masks = np.zeros((len(slots), rows * columns), np.bool_)
    masked = np.flatnonzero(slots < num_masked)
    draws = Draws.many(seed, "masks", slots[masked], epoch=step)
    for crop, own_draws in zip(masked, draws, strict=True):
        mask = slot_mask(int(slots[crop]), num_masked, rows, columns, config.ratio, own_draws)
        masks[crop] = mask.ravel()
    return collate_masks(masks)


def slot_mask(
    slot: int, num_masked: int, rows: int, columns: int, ratio: tuple[float, float], draws: Draws
) -> npt.NDArray[np.bool_]:
    """Draw the mask of one of the ``num_masked`` slots of a step, ``[rows, columns]``."""
    low, high = _edges(tuple(ratio), num_masked)[slot : slot + 2]
    return block_mask(rows, columns, int(rows * columns * draws.uniform(low, high)), draws)


@functools.lru_cache(maxsize=4)
def _edges(ratio: tuple[float, float], num_masked: int) -> list[float]:
    import torch  # here: recipes are checked on machines without it

    # In float32 and by torch, as published: other rounding sometimes moves a target by one.
    edges: list[float] = torch.linspace(*ratio, num_masked + 1, dtype=torch.float32).tolist()
    return edges


def collate_masks(masks_BN: npt.NDArray[np.bool_]) -> BatchMasks:
    """Derive indices and weights from masks, bool ``[B, N]``; see `BatchMasks`."""
    counts_B = masks_BN.sum(axis=1)
    weights_B = (1 / np.maximum(counts_B, 1)).astype(np.float32)
    indices_M = np.flatnonzero(masks_BN)
    return BatchMasks(
        masks_BN=masks_BN, indices_M=indices_M, weights_M=weights_B[indices_M // masks_BN.shape[1]]
    )


def all_patches(num_crops: int, patches: int) -> BatchMasks:
    """Hide nothing, and name all patches: what iBOT compares in a distillation."""
    masks = collate_masks(np.ones((num_crops, patches), np.bool_))
    return replace(masks, masks_BN=np.zeros_like(masks.masks_BN))


def expected_masked(masks: MaskConfig, crops: int, patches: int) -> float:
    """Patches that are masked in a batch on average.

    The masked crops share the range of ratios evenly, so that their mean is its middle.
    `block_mask` never exceeds its target and seldom misses it.
    """
    low, high = masks.ratio
    return int(crops * masks.image_prob) * patches * (low + high) / 2


def most_masked(masks: MaskConfig, crops: int, patches: int) -> int:
    """Most patches that `draw_masks` can mask in a batch: what memory must suffice for.

    The ratio of masked crop i ends at slice i + 1 of the range: the sum of these ends.
    """
    low, high = masks.ratio
    masked_crops = int(crops * masks.image_prob)
    if not masked_crops:
        return 0
    return int(patches * (masked_crops * low + (high - low) * (masked_crops + 1) / 2))
