"""Micro-batches of a step on this rank: crops, masks, and rows of stochastic depth."""

from dataclasses import dataclass

import numpy as np
import torch

from dinoforge.models.layers import BlockRows
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch
from dinoforge.training.data.masks import draw_masks
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.method import Views
from dinoforge.training.stochastic_depth import StochasticDepth

__all__ = ["StepViews"]


@dataclass(frozen=True)
class StepViews:
    """Cut a batch into micro-batches; masks and stochastic depth are functions of the step."""

    config: TrainingConfig
    rank_info: RankInfo
    device: torch.device

    def __call__(self, batch: Batch) -> list[tuple[Views, list[BlockRows] | None]]:
        """Return the micro-batches in order, each with its stochastic depth."""
        size = self.config.micro_batch(self.rank_info.world_size)
        count = self.config.parallel.accumulate
        first = self.rank_info.rank * size * count
        return [
            (
                self._views(batch, range(n * size, (n + 1) * size), first),
                self._rows(batch.step, range(first + n * size, first + (n + 1) * size)),
            )
            for n in range(count)
        ]

    def _views(self, batch: Batch, rows: range, first: int) -> Views:
        """Take some of the images; `first` is the position of the batch in the step."""
        config = self.config
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        images = np.arange(first + rows.start, first + rows.stop)
        side = config.crops.global_size // config.model.patch_size
        masks = draw_masks(
            2 * config.batch_size,
            side,
            side,
            config.masks,
            seed=config.seed,
            step=batch.step,
            crops=np.concatenate([images, config.batch_size + images]),
        )

        def take(crops: torch.Tensor) -> torch.Tensor:
            per_crop = crops.unflatten(0, (-1, len(batch.image_ids)))
            return per_crop[:, rows.start : rows.stop].flatten(0, 1).to(self.device, dtype)

        return Views(
            take(batch.global_crops),
            take(batch.local_crops),
            torch.from_numpy(masks.masks_BN).to(self.device),
            torch.from_numpy(masks.indices_M).to(self.device),
            torch.from_numpy(masks.weights_M).to(self.device),
        )

    def _rows(self, step: int, images: range) -> list[BlockRows] | None:
        config = self.config
        if not config.model.drop_path:
            return None
        depth = StochasticDepth(
            rate=config.model.drop_path,
            depth=config.model.vit(config.crops.global_size).depth,
            num_crops=(2, config.crops.num_local),
            batch_size=config.batch_size,
            group_size=config.group_size or len(images),
            seed=config.seed,
        )
        return depth.rows(step, images, self.device)
