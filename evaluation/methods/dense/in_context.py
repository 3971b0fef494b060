"""In-context segmentation: by the nearest labeled patches, without training.

HummingBird, Balazevic et al. 2023. A bounded memory holds training patches with their label
distributions. A patch of a test image takes the mean distribution of its k nearest, weighted by
softmax(cosine / temperature).

Shapes: B images, X x Y patches, D dimensions, K classes, m patches in the memory, H x W pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.config.ranges import Fraction, PositiveFloat, PositiveInt, Range
from dinoforge.encoders.encoder import unit_rows
from dinoforge.errors import UsageError
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k
from dinoforge.randomness import uniforms

__all__ = ["InContext", "PatchMemory", "label_shares", "patch_distributions", "remember_patches"]

Floats = NDArray[np.float32]

_Patches = tuple[NDArray[np.float64], NDArray[Any], Floats]  # draws, features, label shares


@dataclass(frozen=True, kw_only=True)
class InContext:
    """Settings of in-context segmentation."""

    memory: PositiveInt = 20_000  # patches; HummingBird: 10,240,000
    min_labeled: Annotated[Fraction, Range(0, 1)] = 0.5  # labeled share that a patch must exceed
    k: PositiveInt = 30  # neighbors
    temperature: PositiveFloat = 0.02
    seed: int = 0  # keys the choice of patches


@dataclass(frozen=True)
class PatchMemory:
    """Patches to compare with, in the order of their draws."""

    keys: Floats  # [m, D], unit rows
    shares: Floats  # [m, K], sums of 1


def label_shares(
    labels_HW: NDArray[Any], grid: tuple[int, int], *, num_classes: int, ignore_index: int = 255
) -> Floats:
    """Return the share of every class in the cells of a grid, ``[X, Y, K]``, of all their pixels.

    Ignored pixels belong to no class, so a cell sums to its labeled share. A pixel belongs to the
    cell that holds its center.
    """
    (height, width), (x, y) = labels_HW.shape, grid
    rows, columns = (
        ((2 * np.arange(side) + 1) * cells // (2 * side))
        for side, cells in ((height, x), (width, y))
    )
    cell = rows[:, None] * y + columns
    labeled = labels_HW != ignore_index
    flat = cell[labeled] * num_classes + labels_HW[labeled].astype(np.int64)
    counts = np.bincount(flat, minlength=x * y * num_classes).reshape(x, y, num_classes)
    pixels = np.bincount(cell.ravel(), minlength=x * y).reshape(x, y, 1)
    return (counts / np.maximum(pixels, 1)).astype(np.float32)


def remember_patches(
    images: Iterable[tuple[NDArray[Any], Floats]], settings: InContext
) -> PatchMemory:
    """Choose random patches of labeled images, in one pass and bounded memory.

    ``images`` are pairs of patch features ``[X, Y, D]`` and `label_shares` ``[X, Y, K]``. Every
    patch has a keyed draw; those with the smallest draws are kept, so the choice depends on the
    order of the images only. Fewer eligible patches than ``settings.memory`` are all kept.

    Raises
    ------
    UsageError
        If no patch has a larger labeled share than ``settings.min_labeled``.
    """
    parts: list[_Patches] = []
    num_seen = num_held = 0
    for features, of_classes in images:
        labeled = of_classes.sum(axis=-1).ravel()
        usable = np.flatnonzero(labeled > settings.min_labeled)
        drawn = uniforms(settings.seed, "evaluation/in-context", num_seen + usable)[:, 0]
        num_seen += len(labeled)
        shares = of_classes.reshape(len(labeled), -1)[usable] / labeled[usable, None]
        parts.append((drawn, features.reshape(len(labeled), -1)[usable], shares))
        num_held += len(usable)
        if num_held > 2 * settings.memory:
            parts = [_smallest_draws(parts, settings.memory)]
            num_held = settings.memory
    if not num_held:
        raise UsageError(
            what=f"no patch is labeled on more than {settings.min_labeled:.0%} of its pixels",
            where="memory of in-context segmentation",
            do="give training images with masks, or lower `min_labeled`",
        )
    _, keys, shares = _smallest_draws(parts, settings.memory)
    return PatchMemory(unit_rows(keys), shares)


def _smallest_draws(parts: list[_Patches], count: int) -> _Patches:
    draws, keys, shares = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    keep = np.argsort(draws, kind="stable")[:count]
    return draws[keep], keys[keep], shares[keep]


def patch_distributions(
    memory: PatchMemory, features_BXYD: NDArray[Any], settings: InContext, *, device: str = "cpu"
) -> Floats:
    """Return the class distribution of every patch, ``[B, K, X, Y]``, to be upsampled.

    A patch without content (a zero vector) has no neighbors and a distribution of zeros.
    """
    flat = unit_rows(features_BXYD.reshape(-1, features_BXYD.shape[-1]))
    k = min(settings.k, len(memory.keys))
    nearest = top_k(flat, memory.keys, k=k, backend=backend_for(device), device=device)
    best = np.maximum(nearest.scores[:, :1], -1)  # -inf, of no neighbor, less itself is NaN
    weights = np.exp((nearest.scores - best) / np.float32(settings.temperature))
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-30))
    shares = np.einsum("qk,qkc->qc", weights, memory.shares[nearest.ids])
    batch, x, y, _ = features_BXYD.shape
    return shares.reshape(batch, x, y, -1).transpose(0, 3, 1, 2)
