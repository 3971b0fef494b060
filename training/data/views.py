"""Micro-batches of a step on this rank: crops, masks, and rows of stochastic depth.

Masks and rows are functions of the step and of the images' positions in it, so they do not depend
on how a step is split over ranks and micro-batches (rows: with a fixed ``group_size``).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.randomness import uniforms
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch
from dinoforge.training.data.masks import all_patches, draw_masks
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.methods.method import Views

__all__ = ["draw_rows", "micro_batches"]


def micro_batches(
    config: TrainingConfig, batch: Batch, rank_info: RankInfo, device: torch.device
) -> list[Views]:
    """Cut this rank's part of a step into micro-batches, each with its stochastic depth."""
    size, count = config.micro_batch(rank_info.world_size), config.parallel.accumulate
    first = rank_info.rank * size * count  # position of this rank's images in the step
    parts = []
    for start in range(0, count * size, size):
        images = range(first + start, first + start + size)
        parts.append(_views(config, batch, start, images, device))
    if batch.support is None or batch.classes is None:
        return parts
    support, classes, dtype = batch.support, batch.classes, parts[0].global_crops.dtype
    return [
        replace(
            part,
            support=support[:, rows].flatten(0, 1).to(device, dtype),
            support_classes=classes[rows].repeat(len(support)).to(device),
        )
        for part, rows in zip(parts, torch.arange(len(classes)).chunk(count), strict=True)
    ]


def _views(
    config: TrainingConfig, batch: Batch, start: int, images: range, device: torch.device
) -> Views:
    """Take images of a batch from row `start` on; `images` are their positions in the step."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    first_crops = np.arange(images.start, images.stop)
    crops = np.concatenate([first_crops, config.batch_size + first_crops])
    side = config.crops.global_size // config.model.patch_size if config.model.is_vit else 1
    is_masked = config.method == "dinov2" and config.loss.ibot > 0
    if config.method == "distillation":
        masks = all_patches(len(crops), side * side)
    else:
        masks = draw_masks(
            2 * config.batch_size,
            side,
            side,
            config.masks if is_masked else replace(config.masks, image_prob=0.0),
            seed=config.seed,
            step=batch.step,
            crops=crops,
        )

    def take(crops: Tensor) -> Tensor:
        per_crop = crops.unflatten(0, (-1, len(batch.image_ids)))
        return per_crop[:, start : start + len(images)].flatten(0, 1).to(device, dtype)

    return Views(
        take(batch.global_crops),
        take(batch.local_crops),
        torch.from_numpy(masks.masks_BN).to(device),
        torch.from_numpy(masks.indices_M).to(device),
        torch.from_numpy(masks.weights_M).to(device),
        draw_rows(config, batch.step, images, device) if config.model.drop_path else None,
    )


def draw_rows(
    config: TrainingConfig, step: int, images: range, device: torch.device | str = "cpu"
) -> list[BlockRows]:
    """Draw the rows that every residual branch of the student is run on (stochastic depth).

    By ``model.drop_path_rule``: each group of images draws its own subset per crop, branch and
    block; or each sample is drawn on its own, with a rate that grows from block to block. `images`
    are the positions of a micro-batch in the step: whole groups. Returns, per block, rows of the
    global, then of the local crops, ascending.
    """
    depth, rate = config.model.vit(config.crops.global_size).depth, config.model.drop_path
    by_sample = config.model.drop_path_rule == "sample"
    rates = np.linspace(0, rate, depth) if by_sample else np.full(depth, rate)
    branches: list[list[Tensor]] = [[] for _ in range(2 * depth)]
    for crops in (range(2), range(2, 2 + config.crops.num_local)):
        rows = np.add.outer(np.array(crops) * config.batch_size, np.array(images)).ravel()
        numbers = uniforms(config.seed, "drop path", rows, epoch=step, count=2 * depth)
        if by_sample:
            chosen = [np.flatnonzero(drawn) for drawn in (numbers >= rates.repeat(2)).T]
        else:
            chosen = list(_subsets(numbers, config.group_size or len(images), rate))
        for of_branch, drawn in zip(branches, chosen, strict=True):
            of_branch.append(torch.from_numpy(drawn).to(device, non_blocking=True))
    scales = [1 / (1 - rate) for rate in rates.tolist()] if by_sample else [None] * depth
    return [BlockRows(*of) for of in zip(branches[::2], branches[1::2], scales, strict=True)]


def _subsets(numbers: npt.NDArray[np.float64], group: int, rate: float) -> npt.NDArray[np.int64]:
    """Choose the same number of rows of every group; ``[branches, chosen]``, each ascending."""
    keep, branches = kept_samples(group, rate), numbers.shape[1]
    groups = numbers.reshape(-1, group, branches)
    chosen = np.sort(groups.argsort(axis=1, kind="stable")[:, :keep], axis=1)
    chosen += group * np.arange(len(groups))[:, None, None]
    return chosen.reshape(-1, branches).T.copy()
