"""Stochastic depth: the samples that a residual branch is run on, as a function of the step.

Each group of images draws its own subset per crop, branch and block, so with fixed groups the
subsets do not depend on how a step is split over ranks and micro-batches.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.randomness import uniforms

__all__ = ["StochasticDepth"]


@dataclass(frozen=True)
class StochasticDepth:
    """Draws the rows that every residual branch of the student is run on.

    Of a group of ``g`` images ``kept_samples(g, rate)`` are kept, in each crop on its own.
    """

    rate: float  # share of samples that skip a branch, 0 <= rate < 1
    depth: int  # blocks
    num_crops: tuple[int, int]  # global and local crops of an image; batches are crop-major
    batch_size: int  # images of a whole step, over all ranks
    group_size: int  # images that draw together
    seed: int

    def rows(self, step: int, images: range, device: torch.device | str = "cpu") -> list[BlockRows]:
        """Draw for a micro-batch of `images`, by position in the whole step: whole groups.

        Returns
        -------
        list of BlockRows
            One per block: rows of the global, then of the local crops, ascending.
        """
        keep = kept_samples(self.group_size, self.rate)
        rows_of_batch = []
        first = 0
        for count in self.num_crops:
            crops = np.arange(first, first + count)
            first += count
            rows = (crops[:, None] * self.batch_size + np.arange(images.start, images.stop)).ravel()
            numbers = uniforms(self.seed, "drop path", rows, epoch=step, count=2 * self.depth)
            groups = numbers.reshape(-1, self.group_size, 2 * self.depth)
            chosen = np.sort(groups.argsort(axis=1, kind="stable")[:, :keep], axis=1)
            chosen += self.group_size * np.arange(len(groups))[:, None, None]
            by_branch = torch.from_numpy(chosen.reshape(-1, 2 * self.depth).T.copy())
            rows_of_batch.append(by_branch.to(device, non_blocking=True).unbind(0))
        branches = [list(rows) for rows in zip(*rows_of_batch, strict=True)]
        return list(zip(branches[::2], branches[1::2], strict=True))
