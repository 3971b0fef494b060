"""Batches of augmented crops: a function of the step, whatever ran before and however many workers.

Place p = step x batch + i of the endless order is image ``permutation(epoch)[p mod n]`` with epoch
``p // n``; its crops are a function of (seed, image, epoch). So the state of the data is the step.
Of every step a rank takes the places i of its own, whatever the others do.
Images that do not decode are replaced by the next in the order, counted and named.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.images import Undecodable
from dinoforge.randomness import KeyedPermutation
from dinoforge.training.config import DataConfig, TrainingConfig
from dinoforge.training.data.color import ColorDraws, augment_colors, draw_colors
from dinoforge.training.data.crops import CropsConfig, cut_crops, draw_boxes
from dinoforge.training.data.decoded_cache import DecodedCache, Shrunk, TrainingImages, plan_cache
from dinoforge.training.data.loader import prepare_steps, usable_workers, worker_context
from dinoforge.training.distributed.ranks import RankInfo

__all__ = ["Batch", "TrainingData", "TrainingImages", "open_training_data"]

_log = logging.getLogger(__name__)

_MAX_IN_A_ROW = 1000  # undecodable images after which the search for a replacement ends


@dataclass(frozen=True)
class Batch:
    """Crops of a part of a step, crop-major: first crop 1 of all B images, then crop 2, ..."""

    step: int
    global_crops: Tensor  # float32 [2 B, 3, G, G], normalized
    local_crops: Tensor  # float32 [num_local B, 3, L, L], normalized
    image_ids: npt.NDArray[np.int64]  # [B], rows of the table of the images
    table: pa.Table = field(repr=False)

    @property
    def keys(self) -> list[str]:
        """Names of the B images."""
        keys: list[str] = self.table["key"].take(pa.array(self.image_ids)).to_pylist()
        return keys


@dataclass(frozen=True)
class _CutBatch:
    """What a worker hands over: pixels, and what replaced what."""

    global_crops: Tensor  # uint8 [2 B, 3, G, G]
    local_crops: Tensor  # uint8 [num_local B, 3, L, L]
    images: npt.NDArray[np.int64]  # [B], whose turn it was
    epochs: npt.NDArray[np.int64]  # [B]
    shown: npt.NDArray[np.int64]  # [B], whose pixels these are
    undecodable: dict[int, str]  # image -> reason, met in this batch

    def pin_memory(self) -> "_CutBatch":
        """Move the pixels to page-locked memory (called by torch's loader)."""
        return replace(
            self,
            global_crops=self.global_crops.pin_memory(),
            local_crops=self.local_crops.pin_memory(),
        )


class TrainingData:
    """The endless order of training images, as batches of crops.

    Parameters
    ----------
    images : TrainingImages
        At least one must decode.
    crops : CropsConfig
    data : DataConfig
        Workers and cache: how fast, never what.
    batch_size : int
        Images a step, over all ranks.
    part : range, optional
        Places in each step that this rank takes: B of them; all by default.
    seed : int
        Decides order, crops and colors.
    device : torch.device
        Where colors are changed and where the batches are.
    """

    def __init__(
        self,
        images: TrainingImages,
        crops: CropsConfig,
        data: DataConfig,
        *,
        batch_size: int,
        part: range | None = None,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not len(images):
            raise UsageError(
                what="no images to train on",
                where=", ".join(data.paths) or "data.paths",
                do="name a folder, tar or curation run with images",
            )
        self._table = images.table
        self._crops = crops
        self._seed = seed
        self._device = torch.device(device)
        self._num_workers = usable_workers(data.num_workers)
        self._context = worker_context() if self._num_workers else None
        images = Shrunk(images, data.max_side) if data.max_side else images
        cache = plan_cache(images, data.cache, data.cache_mib, self._context)
        self._cutter = _Cutter(images, crops, batch_size, part or range(batch_size), seed, cache)
        self._max_bad_share = data.max_bad_share
        self._num_seen = 0
        self.undecodable: dict[int, str] = {}  # image -> reason, met so far in this process

    def __len__(self) -> int:
        """Count the images of one pass."""
        return len(self._table)

    def batch(self, step: int) -> Batch:
        """Make the batch of one step, in this process.

        Raises
        ------
        UsageError
            If too many images do not decode.
        """
        return self._finish(step, self._cutter(step))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps ``start .. stop - 1``, prepared ahead by the workers."""
        steps = range(start, stop)
        if self._context is None or not steps:
            yield from map(self.batch, steps)
            return
        cuts = prepare_steps(
            self._cutter,
            steps,
            num_workers=min(self._num_workers, len(steps)),
            context=self._context,
            pinned=self._device.type == "cuda",
        )
        for step, cut in zip(steps, cuts, strict=True):
            yield self._finish(step, cut)

    def _finish(self, step: int, cut: _CutBatch) -> Batch:
        self._count(cut)
        colors = draw_colors(self._crops, self._seed, cut.images, cut.epochs)
        return Batch(
            step=step,
            global_crops=self._color(cut.global_crops, colors[0]),
            local_crops=self._color(cut.local_crops, colors[1]),
            image_ids=cut.shown,
            table=self._table,
        )

    def _color(self, crops: Tensor, draws: ColorDraws) -> Tensor:
        return augment_colors(
            crops.to(self._device, non_blocking=True),
            draws,
            blur_kernel=self._crops.blur_kernel,
            threshold=self._crops.solarize_threshold,
            mean=self._crops.mean,
            std=self._crops.std,
        )

    def _count(self, cut: _CutBatch) -> None:
        self._num_seen += len(cut.images)
        new = {
            image: why for image, why in cut.undecodable.items() if image not in self.undecodable
        }
        if not new:
            return
        self.undecodable.update(new)
        for image, reason in new.items():
            _log.warning("replaced %s: %s", self._table["key"][image], reason)
        bad, seen = len(self.undecodable), self._num_seen + len(self.undecodable)
        if bad > max(10, self._max_bad_share * seen):
            image, reason = next(iter(new.items()))
            raise UsageError(
                what=f"{bad} of {seen} images do not decode, the last: {reason}",
                where=str(self._table["key"][image]),
                do="drop them with `dinoforge curate`, or raise data.max_bad_share",
            )


class _Cutter:
    """Cuts the crops of a step; a function of the step that travels to worker processes."""

    def __init__(
        self,
        images: TrainingImages,
        crops: CropsConfig,
        batch_size: int,
        part: range,
        seed: int,
        cache: DecodedCache | None,
    ) -> None:
        self._images = images
        self._crops = crops
        self._batch_size = batch_size
        self._part = np.arange(part.start, part.stop)
        self._seed = seed
        self._cache = cache
        self._undecodable: dict[int, str] = {}

    def __call__(self, step: int) -> _CutBatch:
        num_images = len(self._images)
        places = step * self._batch_size + self._part
        epochs, places = places // num_images, places % num_images
        images = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            images[now] = _order(num_images, self._seed, int(epoch))[places[now]]
        met: dict[int, str] = {}
        shown, pixels = [], []
        for image, place, epoch in zip(images, places, epochs, strict=True):
            one, its_pixels = self._first_decodable(int(image), int(place), int(epoch), met)
            shown.append(one)
            pixels.append(its_pixels)
        sizes = np.array([its_pixels.shape[:2] for its_pixels in pixels])
        # Drawn for the image whose turn it was: a replacement that is in the batch anyway is cut
        # differently there.
        drawn = draw_boxes(self._crops, self._seed, images, epochs, sizes)
        crops = cut_crops(self._crops, pixels, drawn)
        return _CutBatch(*crops, images, epochs, np.array(shown), met)

    def _first_decodable(
        self, image: int, place: int, epoch: int, met: dict[int, str]
    ) -> tuple[int, npt.NDArray[np.uint8]]:
        """Decode an image, or else the next in the order that decodes."""
        num_images = len(self._images)
        for _ in range(min(num_images, _MAX_IN_A_ROW)):
            pixels = self._decode(image, met)
            if pixels is not None:
                return image, pixels
            place = (place + 1) % num_images
            image = _order(num_images, self._seed, epoch)[place]
        reason = next(iter(met.values()))
        raise UsageError(
            what=f"{len(met)} images in a row do not decode, the first: {reason}",
            where=str(self._images.table["key"][next(iter(met))]),
            do="look at these files, or drop them with `dinoforge curate`",
        )

    def _decode(self, image: int, met: dict[int, str]) -> npt.NDArray[np.uint8] | None:
        pixels = self._cache.get(image) if self._cache is not None else None
        if pixels is None and image not in self._undecodable:
            try:
                pixels = self._images.decode(image)
            except Undecodable as refused:
                self._undecodable[image] = str(refused)
            else:
                if self._cache is not None:
                    self._cache.put(image, pixels)
        if pixels is None:
            met[image] = self._undecodable[image]
        return pixels


@functools.lru_cache(maxsize=4)
def _order(num_images: int, seed: int, epoch: int) -> KeyedPermutation:
    return KeyedPermutation(num_images, seed, epoch=epoch)


def open_training_data(
    config: TrainingConfig, cache: Path, rank_info: RankInfo, device: torch.device
) -> TrainingData:
    """Open the images of a recipe for one rank.

    Parameters
    ----------
    config : TrainingConfig
    cache : Path
        Folder for what has to be unpacked.
    rank_info : RankInfo
        Of this rank, which takes a contiguous part of every step.
    device : torch.device
        Where the batches are wanted.

    Raises
    ------
    UsageError
        If a path is missing or holds no images.
    """
    from dinoforge.sources import open_images

    size = config.batch_size // rank_info.world_size
    return TrainingData(
        open_images(config.data.paths, cache=cache, policy=config.decode),
        config.crops,
        config.data,
        batch_size=config.batch_size,
        part=range(rank_info.rank * size, (rank_info.rank + 1) * size),
        seed=config.seed,
        device=device,
    )
