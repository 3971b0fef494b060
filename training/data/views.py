"""Micro-batches of a step on this rank: crops, masks, and rows of stochastic depth.

Masks and rows are functions of the step and of the images' positions in it, so they do not depend
on how a step is split over ranks and micro-batches (rows: with a fixed ``group_size``).
"""

import numpy as np
import torch
from torch import Tensor

from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.randomness import uniforms
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch
from dinoforge.training.data.masks import draw_masks
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.method import Views

__all__ = ["draw_rows", "micro_batches"]


def micro_batches(
    config: TrainingConfig, batch: Batch, rank_info: RankInfo, device: torch.device
) -> list[tuple[Views, list[BlockRows] | None]]:
    """Cut this rank's part of a step into micro-batches, each with its stochastic depth."""
    size, count = config.micro_batch(rank_info.world_size), config.parallel.accumulate
    first = rank_info.rank * size * count  # position of this rank's images in the step
    parts = []
    for start in range(0, count * size, size):
        images = range(first + start, first + start + size)
        rows = draw_rows(config, batch.step, images, device) if config.model.drop_path else None
        parts.append((_views(config, batch, start, images, device), rows))
    return parts


def _views(
    config: TrainingConfig, batch: Batch, start: int, images: range, device: torch.device
) -> Views:
    """Take images of a batch from row `start` on; `images` are their positions in the step."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    side = config.crops.global_size // config.model.patch_size
    first_crops = np.arange(images.start, images.stop)
    masks = draw_masks(
        2 * config.batch_size,
        side,
        side,
        config.masks,
        seed=config.seed,
        step=batch.step,
        crops=np.concatenate([first_crops, config.batch_size + first_crops]),
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
    )


def draw_rows(
    config: TrainingConfig, step: int, images: range, device: torch.device | str = "cpu"
) -> list[BlockRows]:
    """Draw the rows that every residual branch of the student is run on (stochastic depth).

    Each group of images draws its own subset per crop, branch and block; `images` are the positions
    of a micro-batch in the step: whole groups. Returns, per block, rows of the global, then of the
    local crops, ascending.
    """
    group = config.group_size or len(images)
    keep = kept_samples(group, config.model.drop_path)
    branches = 2 * config.model.vit(config.crops.global_size).depth
    rows_of_batch = []
    for crops in (range(2), range(2, 2 + config.crops.num_local)):
        rows = np.add.outer(np.array(crops) * config.batch_size, np.array(images)).ravel()
        numbers = uniforms(config.seed, "drop path", rows, epoch=step, count=branches)
        groups = numbers.reshape(-1, group, branches)
        chosen = np.sort(groups.argsort(axis=1, kind="stable")[:, :keep], axis=1)
        chosen += group * np.arange(len(groups))[:, None, None]
        by_branch = torch.from_numpy(chosen.reshape(-1, branches).T.copy())
        rows_of_batch.append(by_branch.to(device, non_blocking=True).unbind(0))
    of_branch = [list(rows) for rows in zip(*rows_of_batch, strict=True)]
    return list(zip(of_branch[::2], of_branch[1::2], strict=True))
