"""Shared by encoders with a network: pixels to tensors, in batches of one size.

Shapes: B images, S pixels per side, D dimensions.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.encoders.encoder import Images, Vectors
from dinoforge.encoders.pixels import small_picture
from dinoforge.images import resize
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD
from dinoforge.models.weights import damaged_metadata

__all__ = ["TRANSFORM_VERSION", "Transform", "normalization_of", "run_batches"]

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
        pixels = torch.from_numpy(squares).to(torch.float32).div_(255)
        pixels.sub_(torch.tensor(self.mean)).div_(torch.tensor(self.std))
        return pixels.permute(0, 3, 1, 2)


def run_batches(
    forward: Callable[[Tensor], Tensor],
    images: Images,
    transform: Transform,
    dim: int,
    device: str,
    *,
    size: int = 0,
) -> Vectors:
    """Run a network over images in padded batches of one size; return its rows ``[B, D]``.

    ``forward`` maps a batch ``[size, 3, S, S]`` to rows ``[size, dim]``, both float32. Products of
    different sizes differ in their last bits: with one ``size`` (0: the default of the device), the
    vector of an image does not depend on the number of images.
    """
    size = size or (_CPU_BATCH if device == "cpu" else _GPU_BATCH)
    rows = np.zeros((len(images), dim), np.float32)
    for start in range(0, len(images), size):
        some = images[start : start + size]
        batch = transform.batch(some, size).to(device)
        with torch.inference_mode():
            rows[start : start + len(some)] = forward(batch).float().cpu().numpy()[: len(some)]
    return rows


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
