"""Multi-crop: which rectangles of an image the networks see, and the pixels of those rectangles.

Two global crops for student and teacher and several small local crops for the student only
(Caron et al. 2020, SwAV; sizes and scales of DINOv2). Random numbers are a function of (seed,
image, epoch).

Not for: colors (`training.data.color`), masks of patches (`training.data.masks`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt

from dinoforge.config.ranges import Fraction, NonNegativeFloat, PositiveFloat, Range
from dinoforge.errors import Fault
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD
from dinoforge.randomness import uniforms

if TYPE_CHECKING:  # recipes are checked on machines without torch
    from torch import Tensor

__all__ = ["CropBoxes", "CropsConfig", "crop_boxes", "cut_crops", "draw_boxes", "resized_crop"]

Image = npt.NDArray[np.uint8]

# The published code inverted its blur probabilities, and the released weights of DINOv2 and DINOv3
# were trained with what came out (dinov2 pull request 411, dinov3 issue 286).
_BLUR_PRESETS = {"as_published": (0.0, 0.9, 0.5), "as_written": (1.0, 0.1, 0.5)}

_ATTEMPTS = 10  # draws of a box until one fits (torchvision)
_NUM_DRAWS = 3 + 2 * _ATTEMPTS  # per crop


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """Crops of an image and their augmentation; the defaults are those of DINOv2."""

    # side of the 2 global crops, pixels; a multiple of the patch size
    global_size: Annotated[int, Range(1, 8192)] = 224
    # side of the local crops, pixels; 98 for patch 14, 96 for patch 16
    local_size: Annotated[int, Range(1, 8192)] = 98
    num_local: Annotated[int, Range(0, 256)] = 8  # local crops per image
    global_scale: tuple[Fraction, Fraction] = (0.32, 1.0)  # area of a global crop / image
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.32)  # area of a local crop / image
    ratio: tuple[float, float] = (0.75, 4 / 3)  # width / height of a crop before it is resized
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"  # both antialiased, as in Pillow
    flip_prob: Fraction = 0.5  # mirrored left-right, each crop on its own
    jitter_prob: Fraction = 0.8  # brightness, contrast, saturation and hue change in random order
    brightness: NonNegativeFloat = 0.4  # factor from 1 - value to 1 + value; 0 = never changed
    contrast: NonNegativeFloat = 0.4  # factor from 1 - value to 1 + value; 0 = never changed
    saturation: NonNegativeFloat = 0.2  # factor from 1 - value to 1 + value; 0 = never changed
    # turn of the color circle from -value to value; 0 = never changed
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale_prob: Fraction = 0.2  # crop without color
    # how often global crop 1, global crop 2 and a local crop are blurred: as_published 0, 0.9, 0.5
    # (what trained the released weights), as_written 1, 0.1, 0.5 (what the papers say), custom
    blur: Literal["as_published", "as_written", "custom"] = "as_published"
    # the three blur probabilities when blur=custom
    custom_blur_probs: tuple[Fraction, Fraction, Fraction] = (0.0, 0.9, 0.5)
    # gaussian: torchvision's, as in DINOv2; pillow: three box filters, as in DINO v1
    blur_filter: Literal["gaussian", "pillow"] = "gaussian"
    # width of the gaussian blur, pixels, odd; 3 suits crops of 32 pixels
    blur_kernel: Annotated[int, Range(1, 8192)] = 9
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, pixels, drawn evenly
    # second: of global crop 2 alone, from solarize_threshold on; every: of any crop, from a level
    # on that is drawn for each, as in PAWS on CIFAR-10
    solarize: Literal["second", "every"] = "second"
    solarize_prob: Fraction = 0.2  # of the crops that solarize names
    solarize_threshold: Annotated[int, Range(0, 256)] = 128  # levels from here on are inverted
    equalize_prob: Fraction = 0.0  # of any crop: the histogram of each channel becomes even
    mean: tuple[float, float, float] = IMAGE_MEAN  # share of 255; ImageNet's
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGE_STD  # share of 255; ImageNet's

    @property
    def pixels(self) -> int:
        """Pixels of all crops of an image."""
        return 2 * self.global_size**2 + self.num_local * self.local_size**2

    def blur_probs(self) -> tuple[float, float, float]:
        """Probability that global crop 1, global crop 2 and a local crop are blurred."""
        if self.blur == "custom":
            first, second, local = self.custom_blur_probs
            return first, second, local
        return _BLUR_PRESETS[self.blur]

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield reversed ranges and a blur wider than a crop."""
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                yield Fault(f"`{at}.{name}` is {[low, high]}", "recipe", "give 0 < low <= high")
        smallest = min(self.global_size, self.local_size) if self.num_local else self.global_size
        if self.blur_kernel % 2 == 0:
            text = f"`{at}.blur_kernel` is {self.blur_kernel}"
            yield Fault(text, "recipe", "give an odd number")
        if self.blur_kernel // 2 >= smallest:
            text = f"`{at}.blur_kernel` {self.blur_kernel} does not fit crops of {smallest} pixels"
            yield Fault(text, "recipe", f"give at most {2 * smallest - 1}")


@dataclass(frozen=True)
class CropBoxes:
    """Rectangles of the V crops of B images."""

    boxes: npt.NDArray[np.int64]  # [V, B, 4]: top, left, height, width in pixels of the image
    flipped: npt.NDArray[np.bool_]  # [V, B]: mirrored left-right


def draw_boxes(
    config: CropsConfig,
    seed: int,
    images: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> CropBoxes:
    """Draw the rectangles of all crops of B images; views 0 and 1 are the global crops.

    Takes the seed of the run; ``[B]``, which image in which pass over the data; ``[B, 2]``, height
    and width of the images. More local crops do not change the others.
    """
    num_views = 2 + config.num_local
    flat = uniforms(seed, "crops/boxes", images, epoch=epochs, count=num_views * _NUM_DRAWS)
    numbers = flat.reshape(len(images), num_views, _NUM_DRAWS).transpose(1, 0, 2)
    boxes = [
        crop_boxes(numbers[:2, :, 1:], sizes, config.global_scale, config.ratio),
        crop_boxes(numbers[2:, :, 1:], sizes, config.local_scale, config.ratio),
    ]
    return CropBoxes(np.concatenate(boxes), numbers[:, :, 0] < config.flip_prob)


def crop_boxes(
    numbers: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> npt.NDArray[np.int64]:
    """Turn uniform numbers into rectangles, distributed as torchvision's ``RandomResizedCrop``.

    The area is uniform in `scale`, the logarithm of width / height in `ratio`. The first of 10
    attempts that fits into the image is taken, which favors small boxes; if none fits, the largest
    central box within `ratio`.

    Parameters
    ----------
    numbers : ndarray of float64
        ``[..., 22]`` in [0, 1): offset down, offset right, then area and ratio of each attempt.
    sizes : ndarray of int64
        ``[..., 2]``, broadcast: height and width of the images.

    Returns
    -------
    ndarray of int64
        ``[..., 4]``: top, left, height, width.
    """
    height, width = sizes[..., 0, None], sizes[..., 1, None]
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * numbers[..., 2::2])
    logs = math.log(ratio[0]), math.log(ratio[1])
    ratios = np.exp(logs[0] + (logs[1] - logs[0]) * numbers[..., 3::2])
    widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(axis=-1)[..., None]
    has_fit = np.take_along_axis(fits, first, -1)
    least = np.maximum(1, np.rint(width / ratio[0]).astype(np.int64))
    widest = np.maximum(1, np.rint(height * ratio[1]).astype(np.int64))
    box_height = np.where(
        has_fit, np.take_along_axis(heights, first, -1), np.minimum(height, least)
    )
    box_width = np.where(has_fit, np.take_along_axis(widths, first, -1), np.minimum(width, widest))
    spare_height, spare_width = height - box_height, width - box_width
    top = np.where(
        has_fit, (numbers[..., :1] * (spare_height + 1)).astype(np.int64), spare_height // 2
    )
    left = np.where(
        has_fit, (numbers[..., 1:2] * (spare_width + 1)).astype(np.int64), spare_width // 2
    )
    return np.concatenate([top, left, box_height, box_width], axis=-1)


def cut_crops(
    config: CropsConfig, images: Sequence[Image], drawn: CropBoxes
) -> "tuple[Tensor, Tensor]":
    """Cut, resize and mirror all crops of B images, uint8 ``[h, w, 3]``.

    Returns global crops ``[2 B, 3, G, G]`` and local crops ``[num_local B, 3, L, L]``, uint8,
    crop-major (first crop 1 of all images).
    """
    import torch

    num_images, num_local = len(images), config.num_local
    whole, part = config.global_size, config.local_size
    global_crops = torch.empty((2 * num_images, 3, whole, whole), dtype=torch.uint8)
    local_crops = torch.empty((num_local * num_images, 3, part, part), dtype=torch.uint8)
    # Image by image, so that its pixels stay in the CPU's cache for all its crops.
    for column, image in enumerate(images):
        # torch warns about read-only memory, although nothing is written here.
        writable = image if image.flags.writeable else image.copy()
        source = torch.from_numpy(writable).permute(2, 0, 1)
        for view in range(2 + num_local):
            target = global_crops if view < 2 else local_crops
            row = (view if view < 2 else view - 2) * num_images + column
            box = drawn.boxes[view, column]
            crop = resized_crop(source, box.tolist(), target.shape[-1], config.interpolation)
            target[row] = crop.flip(-1) if drawn.flipped[view, column] else crop
    return global_crops, local_crops


def resized_crop(
    source: "Tensor", box: Sequence[int], size: int, interpolation: str = "bicubic"
) -> "Tensor":
    """Cut a rectangle out of an image and resize it to a square.

    The rectangle is cut first: pixels outside never contribute. The filter is Pillow's (bicubic
    with a = -0.5, widened when shrinking, rounded to whole levels between the horizontal and the
    vertical pass), computed by torch: within one level of Pillow before 13, and four times as fast.

    Takes uint8 ``[3, h, w]`` and top, left, height, width in pixels, inside the image; returns
    uint8 ``[3, size, size]``.
    """
    import torch.nn.functional as F

    top, left, height, width = box
    cut = source[None, :, top : top + height, left : left + width]
    return F.interpolate(cut, (size, size), mode=interpolation, antialias=True)[0]
