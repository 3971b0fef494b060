"""Training images as an endless sequence of batches, which only the step determines.

Which image is at a position is a closed form (`order`); its crops are a function of (seed, image,
epoch). So the state of the data is the step. Each rank takes its own positions of every step.
Undecodable images are replaced by the next in the order of their part, counted and logged.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from dinoforge.errors import Fault, UsageError
from dinoforge.images import Undecodable
from dinoforge.sources.accounting import Account, merge_problems
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.color import augment_colors, draw_colors
from dinoforge.training.data.crops import CropsConfig, cut_crops, draw_boxes
from dinoforge.training.data.decoded_cache import TrainingImages
from dinoforge.training.data.loader import prepare_steps, usable_workers, worker_context
from dinoforge.training.data.order import ImageOrder, Place
from dinoforge.training.data.parts import DataConfig
from dinoforge.training.data.support import Support, open_support
from dinoforge.training.distributed.ranks import RankInfo

__all__ = ["Batch", "TrainingData", "open_training_data"]

_log = logging.getLogger(__name__)

_MAX_IN_A_ROW = 1000  # undecodable images before the search for a replacement stops


@dataclass(frozen=True)
class Batch:
    """Crops of this rank's part of a step, crop-major: crop 1 of all B images, then crop 2, ..."""

    step: int
    global_crops: Tensor  # float32 [2 B, 3, G, G], normalized
    local_crops: Tensor  # float32 [num_local B, 3, L, L], normalized
    image_ids: npt.NDArray[np.int64]  # [B], rows of the table of the images
    table: pa.Table = field(repr=False)
    support: Tensor | None = None  # float32 [views, S, 3, G, G], of labeled images
    classes: Tensor | None = None  # int64 [S]

    @property
    def keys(self) -> list[str]:
        """Names of the B images."""
        return self.table["key"].take(pa.array(self.image_ids)).to_pylist()


@dataclass(frozen=True)
class _CutSupport:
    """Labeled images of a step: their first global crops."""

    crops: Tensor  # uint8 [views S, 3, G, G]
    images: npt.NDArray[np.int64]  # [S]
    classes: npt.NDArray[np.int64]  # [S]


@dataclass(frozen=True)
class _CutBatch:
    """Result of a worker: pixels, and which images they are of."""

    global_crops: Tensor  # uint8 [2 B, 3, G, G]
    local_crops: Tensor  # uint8 [num_local B, 3, L, L]
    images: npt.NDArray[np.int64]  # [B], next in the order
    epochs: npt.NDArray[np.int64]  # [B]
    shown: npt.NDArray[np.int64]  # [B], these or their replacements
    support: "_CutSupport | None"
    undecodable: dict[int, str]  # image -> reason, of this batch

    def pin_memory(self) -> "_CutBatch":
        """Move the pixels to page-locked memory (called by torch's loader)."""
        pinned = [crops.pin_memory() for crops in (self.global_crops, self.local_crops)]
        support = self.support and replace(self.support, crops=self.support.crops.pin_memory())
        return replace(self, global_crops=pinned[0], local_crops=pinned[1], support=support)


class _NoneDecodesError(UsageError):
    """No replacement was found; ``undecodable`` are the images known not to decode."""

    def __init__(self, fault: Fault, undecodable: dict[int, str]) -> None:
        super().__init__(faults=[fault])
        self.undecodable = undecodable

    def __reduce__(self) -> tuple[object, ...]:
        return _NoneDecodesError, (self.faults[0], self.undecodable)


class TrainingData:
    """The endless sequence of training images, as batches of crops.

    Parameters
    ----------
    images, crops, data
        What is cropped and how; workers and cache of `data` change speed, never a batch.
    order : ImageOrder
        Which image is at a position; its seed determines crops and colors, too.
    part : range, optional
        Positions of each step that this rank takes, B of them; default: all.
    support : Support, optional
        Labeled images of each step, which are the last ones of `images`.
    device : torch.device
        Where colors are changed and batches are returned.
    """

    def __init__(
        self,
        images: ImageSet,
        crops: CropsConfig,
        data: DataConfig,
        *,
        order: ImageOrder,
        part: range | None = None,
        support: Support | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._table = images.table
        self.images = images
        self._crops = crops
        self.order = order
        self._device = torch.device(device)
        self._num_workers = usable_workers(data.num_workers)
        self._context = worker_context() if self._num_workers else None
        self._cutter = _Cutter(
            TrainingImages(images, data, self._context),
            crops,
            order,
            part or range(order.batch_size),
            support,
        )
        self._max_bad_share = data.max_bad_share
        self._is_shown = np.zeros(len(images), np.bool_)
        self.undecodable: dict[int, str] = {}  # image -> reason, so far in this process

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._table)

    def account(self) -> Account:
        """Count what the sources gave, labeled images apart, and what did not decode so far."""
        support = self._cutter.support
        return replace(
            self.images.account(undecodable=len(self.undecodable)),
            images=sum(self.order.sizes),
            labeled=0 if support is None else support.num_images,
        )

    def batch(self, step: int) -> Batch:
        """Make the batch of one step in this process; raises if too many images do not decode."""
        return self._finish(step, self._cutter(step))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps ``start .. stop - 1``, prepared in advance by the workers."""
        try:
            yield from self._batches(range(start, stop))
        except _NoneDecodesError as error:
            self.undecodable.update(error.undecodable)
            raise

    def _batches(self, steps: range) -> Iterator[Batch]:
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
        self._count_undecodable(cut)
        crops = (cut.global_crops, cut.local_crops)
        draws = draw_colors(self._crops, self.order.seed, cut.images, cut.epochs)
        colored = [
            augment_colors(pixels.to(self._device, non_blocking=True), drawn, self._crops)
            for pixels, drawn in zip(crops, draws, strict=True)
        ]
        batch = Batch(step, colored[0], colored[1], cut.shown, self._table)
        return batch if cut.support is None else self._with_support(batch, cut.support)

    def _with_support(self, batch: Batch, cut: _CutSupport) -> Batch:
        draws, _ = draw_colors(
            self._crops, self.order.seed, cut.images, np.full(len(cut.images), batch.step)
        )
        pixels = cut.crops.to(self._device, non_blocking=True)
        colored = augment_colors(pixels, draws.take(slice(len(pixels))), self._crops)
        return replace(
            batch,
            support=colored.unflatten(0, (-1, len(cut.images))),
            classes=torch.from_numpy(cut.classes),
        )

    def _count_undecodable(self, cut: _CutBatch) -> None:
        self._is_shown[cut.shown] = True
        new = {n: reason for n, reason in cut.undecodable.items() if n not in self.undecodable}
        self.undecodable.update(new)
        for image, reason in new.items():
            _log.warning("replaced %s: %s", self._table["key"][image], reason)
        bad = len(self.undecodable)
        seen = bad + np.count_nonzero(self._is_shown)
        if new and bad > max(10, self._max_bad_share * seen):
            image, reason = next(iter(new.items()))
            raise UsageError(
                what=f"{bad} of {seen} images do not decode, most recently: {reason}",
                where=str(self._table["key"][image]),
                do="drop them with `dinoforge curate`, or raise data.max_bad_share",
            )


@dataclass
class _Cutter:
    """Cuts the crops of a step; a function of the step that is sent to worker processes."""

    images: TrainingImages
    crops: CropsConfig
    order: ImageOrder
    part: range
    support: Support | None = None
    undecodable: dict[int, str] = field(default_factory=dict)  # image -> reason, so far

    def __call__(self, step: int) -> _CutBatch:
        places = self.order.locate(step, self.part)
        self.images.fetch(places.images.tolist())
        undecodable: dict[int, str] = {}
        shown, pixels = zip(
            *(
                self._first_decodable(self._from(place), self.order.sizes[place.part], undecodable)
                for place in places.rows()
            ),
            strict=True,
        )
        sizes = np.array([image.shape[:2] for image in pixels])
        # Drawn for the image next in the order: if its replacement is in the batch anyway, the two
        # are cut differently.
        images, epochs = places.images, places.epochs
        drawn = draw_boxes(self.crops, self.order.seed, images, epochs, sizes)
        crops = cut_crops(self.crops, pixels, drawn)
        support = (
            None if self.support is None else self._cut_support(self.support, step, undecodable)
        )
        return _CutBatch(*crops, images, epochs, np.array(shown), support, undecodable)

    def _cut_support(self, support: Support, step: int, undecodable: dict[int, str]) -> _CutSupport:
        """Cut the global crops of labeled images, or of others of their classes."""
        images, classes = support.locate(step)
        pixels = [
            self._first_decodable(support.order.of_class(image), None, undecodable)[1]
            for image in images.tolist()
        ]
        sizes = np.array([image.shape[:2] for image in pixels])
        crops = replace(self.crops, num_local=0)
        drawn = draw_boxes(crops, self.order.seed, images, np.full(len(images), step), sizes)
        whole, _ = cut_crops(crops, pixels, drawn)
        return _CutSupport(whole[: support.views * len(images)], images, classes)

    def _from(self, place: Place) -> Iterator[int]:
        """Yield the image at a place, and what comes after it in the order of its part."""
        while True:
            yield place.image
            place = self.order.after(place)

    def _first_decodable(
        self, images: Iterator[int], num_images: int | None, undecodable: dict[int, str]
    ) -> tuple[int, npt.NDArray[np.uint8]]:
        """Decode the first of so many images that decodes."""
        tried = []
        for image in islice(images, min(num_images or _MAX_IN_A_ROW, _MAX_IN_A_ROW)):
            if image not in self.undecodable:
                try:
                    return image, self.images.decode(image)
                except Undecodable as error:
                    self.undecodable[image] = str(error)
            undecodable[image] = self.undecodable[image]
            tried.append(image)
        few = f"{len(tried)} images in a row do not decode"
        whole = f"none of the {num_images} images decodes"
        fault = Fault(
            f"{whole if len(tried) == num_images else few}, the first: {undecodable[tried[0]]}",
            str(self.images.table["key"][tried[0]]),
            "check these files, or drop them with `dinoforge curate`",
        )
        raise _NoneDecodesError(fault, self.undecodable)


def open_training_data(
    config: TrainingConfig, cache: Path, rank_info: RankInfo, device: torch.device
) -> TrainingData:
    """Open the images of a recipe for one rank, which takes a contiguous part of every step.

    `cache` is a folder for unpacked sources; batches are returned on `device`. Raises a
    `UsageError` if a path is missing or holds no images.
    """
    size = config.batch_size // rank_info.world_size
    parts = config.data.mixture
    sets = [open_images(part.paths, cache=cache, policy=config.decode) for part in parts]
    order = ImageOrder(
        parts, [len(images) for images in sets], batch_size=config.batch_size, seed=config.seed
    )
    if rank_info.rank == 0:
        _warn_of_repeats(order)
    support = None
    if config.has_support:
        labeled = open_images(config.support.paths, cache=cache, policy=config.decode)
        count = sum(len(images) for images in sets)
        labels_alone = config.method == "supervised" or (
            config.method == "suncet" and not config.paws.contrastive
        )
        support = open_support(
            config.support,
            labeled,
            offset=count,
            epoch=0 if labels_alone else max(1, count // config.batch_size),
            seed=config.seed,
            part=(rank_info.rank, rank_info.world_size),
            all_classes=config.method == "supervised",
        )
        sets.append(labeled)
    return TrainingData(
        _join(sets),
        config.crops,
        config.data,
        order=order,
        part=range(rank_info.rank * size, (rank_info.rank + 1) * size),
        support=support,
        device=device,
    )


def _join(sets: Sequence[ImageSet]) -> ImageSet:
    """Join the images of all parts, in their order; labels are not read."""
    table = pa.concat_tables([images.table for images in sets])
    problems = merge_problems(images.problems for images in sets)
    failed = sum((images.failed for images in sets), Counter[str]())
    return ImageSet(table, sets[0].policy, problems, failed=failed)


def _warn_of_repeats(order: ImageOrder) -> None:
    for part, in_step in zip(order.uses(0), order.per_step(), strict=True):
        if part.images < in_step:
            what = f"{in_step} images of part {part.name}" if part.name else f"batch_size {in_step}"
            text = "%s is more than the %d images: a step shows an image several times"
            _log.warning(text, what, part.images)
