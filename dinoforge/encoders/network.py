"""Shared by encoders with a network: pixels to tensors, in batches of one size.

Shapes: B images, S pixels per side, D dimensions.
"""

import copy
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.config.ranges import Precision
from dinoforge.encoders.encoder import Fitting, Image, Images, Vectors
from dinoforge.encoders.pixels import small_picture
from dinoforge.files import hash_json
from dinoforge.images import resize
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD
from dinoforge.models.weights import damaged_metadata

__all__ = [
    "TRANSFORM_VERSION",
    "Networked",
    "Placement",
    "Transform",
    "normalization_of",
    "normalized",
    "run_batches",
    "stream_batches",
]

# Small batches stay in the cache: MobileNetV2 at 224 pixels encodes 77 images per CPU second in
# batches of 4 and 55 in batches of 32 (2026-11, one Zen 4 core).
_CPU_BATCH, _GPU_BATCH = 4, 64

# Longer images (long side over short side) are cropped before resizing: only the center is used,
# and a line of 1 x 50,000 pixels would grow to gigabytes.
_LONGEST = 8

# Part of the fingerprint of every encoder with a network: raise it when `Transform` changes.
TRANSFORM_VERSION = "1"


@dataclass(frozen=True)
class Transform:
    """Shorter side to ``side`` pixels (bicubic, antialiased), center square, normalized.

    Not ``crop``: the whole image is resized to the square, which changes its aspect.
    """

    side: int
    mean: tuple[float, ...] = IMAGE_MEAN  # of RGB in [0, 1]
    std: tuple[float, ...] = IMAGE_STD
    crop: bool = True

    @property
    def facts(self) -> list[float | str]:
        """What a fingerprint covers."""
        whole = [] if self.crop else ["whole"]
        return [TRANSFORM_VERSION, self.side, *self.mean, *self.std, *whole]

    def fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the square ``[S, S, 3]`` uint8 that the network gets."""
        if not self.crop:
            return small_picture(image, self.side)
        most = _LONGEST * min(image.shape[:2])
        top, left = (max(0, side - most) // 2 for side in image.shape[:2])
        image = image[top : top + most, left : left + most]
        height, width = image.shape[:2]
        if min(height, width) != self.side:
            scale = self.side / min(height, width)
            width = max(self.side, round(width * scale))
            height = max(self.side, round(height * scale))
            image = resize(image, width, height)
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return image[top : top + self.side, left : left + self.side]

    def batch(self, images: Images, size: int) -> Tensor:
        """Make a float32 batch ``[size, 3, S, S]``, channels last in memory, padded with black."""
        squares = np.zeros((size, self.side, self.side, 3), np.uint8)
        for row, image in enumerate(images):
            squares[row] = self.fitted(image)
        return normalized(
            torch.from_numpy(squares), torch.tensor(self.mean), torch.tensor(self.std)
        )


def normalized(squares: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 ``[B, X, Y, 3]`` as a network takes it, float32 ``[B, 3, X, Y]``."""
    pixels = squares.to(torch.float32).div_(255)
    return pixels.sub_(mean).div_(std).permute(0, 3, 1, 2)


def run_batches(
    forward: Callable[[Tensor], Tensor],
    images: Images,
    transform: Transform,
    dim: int,
    device: str,
    *,
    size: int = 0,
) -> Vectors:
    """Run a network over images in padded batches; return its rows ``[B, D]``.

    See `stream_batches`.
    """
    (rows,) = stream_batches(forward, [images], transform, dim, Placement(device, size))
    return rows


@dataclass(frozen=True)
class Placement:
    """Where a network runs: the device, images per batch (0: its default), the number format."""

    device: str = "cpu"
    batch_size: int = 0
    precision: Precision = "float32"

    @property
    def is_gpu(self) -> bool:
        """Whether batches are copied to another device, which works by itself."""
        return not self.device.startswith("cpu")

    @property
    def size(self) -> int:
        """Images of a batch."""
        return self.batch_size or (_GPU_BATCH if self.is_gpu else _CPU_BATCH)

    def autocast(self) -> Any:
        """Return the context in which products are computed in the number format."""
        kind = torch.device(self.device).type
        dtype = getattr(torch, self.precision)
        return torch.autocast(kind, dtype=dtype, enabled=self.precision != "float32")


class Networked(Fitting):
    """An encoder with a network: images are fitted by its transform, batches run as placed.

    Threads may share a network on the CPU. ``is_torch``: torch computes it, in any number format.
    """

    name: str
    fingerprint: str
    transform: Transform
    placement: Placement
    is_torch = True

    @property
    def on_threads(self) -> bool:  # type: ignore[override] # depends on the device
        """Whether threads may call `encode` at the same time: on a CPU."""
        return not self.placement.is_gpu

    def fit(self, image: Image) -> Image:
        """Return the square that the network gets."""
        return self.transform.fitted(image)

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        (vectors,) = self.encode_each([images])
        return vectors

    def in_precision(self, precision: Precision) -> Self:
        """Return the same encoder whose products are in another number format."""
        encoder = copy.copy(self)
        encoder.placement = replace(self.placement, precision=precision)
        encoder.fingerprint = hash_json([self.fingerprint, precision])
        return encoder


def stream_batches(
    forward: Callable[[Tensor], Tensor],
    groups: Iterable[Images],
    transform: Transform,
    dim: int,
    placement: Placement,
) -> Iterator[Vectors]:
    """Run a network over groups of images in padded batches of one size; yield the rows of each.

    ``forward`` maps a batch ``[size, 3, S, S]``, float32, to rows ``[size, dim]``. Products of
    different sizes differ in their last bits: with one size, the vector of an image does not
    depend on the number of images.

    A GPU computes a batch while the next one is taken from ``groups``, copied to page-locked
    memory and from there to the GPU; the rows of a group are yielded when those of its last batch
    have come back, which is while the first batch of the next group is computed.
    """
    size, ahead = placement.size, int(placement.is_gpu)
    slots: deque[_Slot] = deque()
    running: deque[tuple[_Slot, Vectors]] = deque()  # and where the rows of its batch belong
    waiting: deque[list[Any]] = deque()  # rows of groups, batches of them that are not done

    def finish() -> None:
        slot, rows = running.popleft()
        slot.finish(rows)
        slots.append(slot)
        next(group for group in waiting if group[1])[1] -= 1

    try:
        for images in groups:
            rows = np.zeros((len(images), dim), np.float32)
            starts = range(0, len(images), size)
            waiting.append([rows, len(starts)])
            for start in starts:
                slot = slots.popleft() if slots else _Slot(transform, dim, placement)
                slot.start(forward, images[start : start + size])
                running.append((slot, rows[start : start + size]))
                while len(running) > ahead:
                    finish()
            while waiting and not waiting[0][1]:
                yield waiting.popleft()[0]
        while running:
            finish()
        yield from (rows for rows, _ in waiting)
    finally:
        if placement.is_gpu:  # nothing may be copied to memory that is given back
            torch.cuda.synchronize(placement.device)


class _Slot:
    """Memory of one batch on its way through a network; on a GPU page-locked, and on both sides."""

    def __init__(self, transform: Transform, dim: int, placement: Placement) -> None:
        self._transform, self._placement = transform, placement
        size, side, device = placement.size, transform.side, placement.device
        is_gpu = placement.is_gpu
        self._squares = torch.zeros((size, side, side, 3), dtype=torch.uint8, pin_memory=is_gpu)
        self._rows = torch.zeros((size, dim), pin_memory=is_gpu)
        self._mean = torch.tensor(transform.mean, device=device)
        self._std = torch.tensor(transform.std, device=device)
        if is_gpu:
            self._on_device = torch.empty_like(self._squares, device=device)
            self._copies = torch.cuda.Stream(device)
            self._copied, self._done = torch.cuda.Event(), torch.cuda.Event()
            # The memory may still be read by what was computed in it before.
            self._copies.wait_stream(torch.cuda.current_stream(device))

    def start(self, forward: Callable[[Tensor], Tensor], images: Images) -> None:
        """Copy a batch to the device and start the network on it; the slot is free, or new."""
        squares = self._squares.numpy()
        for row, image in enumerate(images):
            squares[row] = self._transform.fitted(image)
        squares[len(images) :] = 0
        with torch.inference_mode():
            batch = normalized(self._copied_squares(), self._mean, self._std)
            with self._placement.autocast():
                rows = forward(batch)
            self._rows.copy_(rows, non_blocking=self._placement.is_gpu)
        if self._placement.is_gpu:
            self._done.record(torch.cuda.current_stream(self._placement.device))

    def finish(self, rows: Vectors) -> None:
        """Wait for the network and take its rows, as many as there are images."""
        if self._placement.is_gpu:
            self._done.synchronize()
        rows[:] = self._rows.numpy()[: len(rows)]

    def _copied_squares(self) -> Tensor:
        if not self._placement.is_gpu:
            return self._squares
        with torch.cuda.stream(self._copies):
            self._on_device.copy_(self._squares, non_blocking=True)
            self._copied.record(self._copies)
        torch.cuda.current_stream(self._placement.device).wait_event(self._copied)
        return self._on_device


def normalization_of(
    metadata: Mapping[str, str], where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of RGB in [0, 1] from the metadata of a backbone.

    JSON lists of three numbers under ``image_mean`` and ``image_std``; missing ones are ImageNet's.
    Others raise a `UsageError` that names the file ``where``.
    """
    read = []
    for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
        try:
            numbers = tuple(map(float, json.loads(metadata[name]))) if name in metadata else values
        except (ValueError, TypeError) as error:
            raise damaged_metadata(name, where) from error
        if len(numbers) != 3 or not np.isfinite(numbers).all():
            raise damaged_metadata(name, where)
        read.append(numbers)
    mean, std = read
    return mean, std
