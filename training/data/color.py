"""Color changes of crops, batched, with the pixel values that Pillow would give.

Crops arrive as uint8 ``[n, 3, h, w]`` and leave normalized in float32. In between they are
*levels*: float32 tensors that hold whole numbers 0..255, so that plain elementwise operations give
the integer results of Pillow on any device. Sources of the formulas: Pillow's blend (truncates),
its luma weights and 8-bit HSV, torchvision's order of operations; each is tested bit by bit.

Not for: geometry (`training.data.crops`).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.randomness import uniforms
from dinoforge.training.data.crops import CropsConfig

__all__ = [
    "ColorDraws",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "augment_colors",
    "box_blur",
    "draw_colors",
    "equalize",
    "gaussian_blur",
    "normalize",
    "solarize",
    "to_grayscale",
]

_ORDERS = np.array(list(permutations(range(4))), np.int8)
_NUM_DRAWS = 10  # per crop


@dataclass(frozen=True)
class ColorDraws:
    """Color changes of n crops."""

    order: npt.NDArray[np.int8]  # [n, 4]: 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 nothing
    factors: npt.NDArray[np.float32]  # [n, 4]: three blend factors; hue in whole 1/256 circles
    gray: npt.NDArray[np.bool_]  # [n]
    sigma: npt.NDArray[np.float32]  # [n]: of the blur, pixels; 0 = not blurred
    solarize: npt.NDArray[np.float32]  # [n]: levels from here on are inverted; 256 = none
    equalize: npt.NDArray[np.bool_]  # [n]

    def take(self, rows: npt.NDArray[np.int64] | slice) -> "ColorDraws":
        """Return the draws of some crops."""
        return ColorDraws(*(getattr(self, field.name)[rows] for field in fields(self)))

    def grouped(self) -> npt.NDArray[np.int64]:
        """Return an order of the n crops in which those with the same jitter order are adjacent."""
        key = (self.order.astype(np.int64) + 1) @ np.array([125, 25, 5, 1])
        return np.lexsort((self.gray, self.sigma > 0, key))


def draw_colors(
    config: CropsConfig, seed: int, images: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
) -> tuple[ColorDraws, ColorDraws]:
    """Draw the colors of all crops of B images, as a function of (seed, image, epoch).

    Takes the seed of the run and, ``[B]``, which image in which pass over the data. Returns the
    draws of the global crops ``[2 B]`` and of the local crops ``[num_local B]``, crop-major.
    """
    num_images, num_views = len(images), 2 + config.num_local

    def drawn(purpose: str, count: int) -> npt.NDArray[np.float64]:
        flat = uniforms(seed, purpose, images, epoch=epochs, count=num_views * count)
        return flat.reshape(num_images, num_views, count).transpose(1, 0, 2).reshape(-1, count)

    numbers = drawn("crops/color", _NUM_DRAWS)
    # Draws of their own: those of earlier runs stay what they are.
    more = drawn("crops/levels", 2)
    first, second, local = config.blur_probs()
    blur = np.repeat([first, second, *[local] * config.num_local], num_images)
    strengths = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    order = _ORDERS[(numbers[:, 1] * len(_ORDERS)).astype(np.int64)]
    order[numbers[:, 0] >= config.jitter_prob] = -1
    order[np.isin(order, np.flatnonzero(strengths == 0))] = -1
    # torchvision draws a blend factor from [max(0, 1 - strength), 1 + strength].
    low = np.where(np.arange(4) < 3, np.maximum(0, 1 - strengths), -strengths)
    high = np.where(np.arange(4) < 3, 1 + strengths, strengths)
    factors = low + (high - low) * numbers[:, 2:6]
    factors[:, 3] = np.trunc(factors[:, 3] * 255)
    thin, wide = config.blur_sigma
    sigma = np.where(numbers[:, 7] < blur, thin + (wide - thin) * numbers[:, 8], 0)
    draws = ColorDraws(
        order=order,
        factors=factors.astype(np.float32),
        gray=numbers[:, 6] < config.grayscale_prob,
        sigma=sigma.astype(np.float32),
        solarize=_draw_thresholds(config, numbers[:, 9], more[:, 0], num_images),
        equalize=more[:, 1] < config.equalize_prob,
    )
    return draws.take(slice(2 * num_images)), draws.take(slice(2 * num_images, None))


def _draw_thresholds(
    config: CropsConfig,
    chance: npt.NDArray[np.float64],
    level: npt.NDArray[np.float64],
    num_images: int,
) -> npt.NDArray[np.float32]:
    """Return the level from which each crop is inverted; 256 if it is not."""
    threshold = np.float64(config.solarize_threshold)
    is_inverted = chance < config.solarize_prob
    if config.solarize == "every":
        return np.where(is_inverted, 256 * level, 256).astype(np.float32)
    is_inverted[:num_images] = is_inverted[2 * num_images :] = False
    return np.where(is_inverted, threshold, 256).astype(np.float32)


# Crops are colored in groups: on a CPU their float copies stay in the L2 cache, on a GPU temporary
# tensors stay below about 1 GiB.
_CACHE_VALUES, _DEVICE_VALUES = 400_000, 64_000_000


def augment_colors(crops: Tensor, draws: ColorDraws, config: CropsConfig) -> Tensor:
    """Jitter, gray, blur, solarize, equalize and normalize crops as drawn.

    Takes uint8 ``[n, 3, h, w]``; returns float32 of the same shape on the same device. Values of
    a crop do not depend on the others.
    """
    colored = torch.empty(crops.shape, dtype=torch.float32, device=crops.device)
    budget = _CACHE_VALUES if crops.device.type == "cpu" else _DEVICE_VALUES
    size = max(1, budget // max(1, crops[0].numel() if len(crops) else 1))
    order = draws.grouped()
    blur: Callable[..., Tensor] = box_blur
    if config.blur_filter == "gaussian":
        blur = functools.partial(gaussian_blur, kernel=config.blur_kernel)
    for start in range(0, len(crops), size):
        rows = order[start : start + size]
        index = _index(rows, crops.device)
        some = draws.take(rows)
        levels = crops.index_select(0, index).float()
        _jitter(levels, some)
        _on_rows(levels, np.flatnonzero(some.gray), to_grayscale)
        _on_rows(levels, np.flatnonzero(some.sigma), blur, some.sigma)
        _on_rows(levels, np.flatnonzero(some.solarize < 256), solarize, some.solarize)
        _on_rows(levels, np.flatnonzero(some.equalize), equalize)
        colored.index_copy_(0, index, normalize(levels, config.mean, config.std))
    return colored


def _jitter(levels: Tensor, draws: ColorDraws) -> None:
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for stage in range(len(operations)):
        for number, operation in enumerate(operations):
            rows = np.flatnonzero(draws.order[:, stage] == number)
            _on_rows(levels, rows, operation, draws.factors[:, number])


def _on_rows(
    levels: Tensor,
    rows: npt.NDArray[np.int64],
    operation: Callable[..., Tensor],
    factors: npt.NDArray[np.float32] | None = None,
) -> None:
    """Change some crops in place; without a gather if they are all crops."""
    if not rows.size:
        return
    arguments = () if factors is None else (torch.from_numpy(factors[rows]).to(levels.device),)
    if rows.size == len(levels):
        operation(levels, *arguments)
        return
    index = _index(rows, levels.device)
    part = levels.index_select(0, index)
    levels.index_copy_(0, index, operation(part, *arguments))


def _index(rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(rows).to(device)


def adjust_brightness(levels: Tensor, factors: Tensor) -> Tensor:
    """Scale levels, in place, by factors ``[n]``: Pillow's blend with black, truncated."""
    return levels.mul_(_per_crop(factors)).clamp_(0, 255).floor_()


def adjust_contrast(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend with the uniform image of the mean gray of each crop, in place; factors ``[n]``.

    The mean is rounded to a whole level first, as in Pillow's ``ImageEnhance.Contrast``.
    """
    mean = _luma(levels).mean(dim=(1, 2), dtype=torch.float64).add_(0.5).floor_().float()
    return _blend(levels, _per_crop(mean), factors)


def adjust_saturation(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend each pixel with its own gray, in place; factors ``[n]``."""
    return _blend(levels, _luma(levels).unsqueeze(1), factors)


def adjust_hue(levels: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue by whole steps of 1/256 circle per crop ``[n]``, in place, through 8-bit HSV.

    Written so that float32 gives the bytes that Pillow computes in a mix of float and double:
    checked for all 2**24 colors in both directions.
    """
    red, green, blue = levels.unbind(1)
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    middle = torch.maximum(low, torch.minimum(high, blue))
    value, least = torch.maximum(high, blue), torch.minimum(low, blue)
    hue, saturation = _hue_and_saturation(levels, value, middle, least)
    hue = hue.add_(shifts.view(-1, 1, 1)).remainder_(256)
    sixths = hue.mul_(6).div_(255)
    strength = saturation.div_(255).mul_(value)
    # Distance of each channel from the largest, as a share of value x saturation: a trapezoid over
    # the circle of six colors.
    shares = (
        (sixths - 3).abs_().neg_().add_(2),
        (sixths - 2).abs_().sub_(1),
        (sixths - 4).abs_().sub_(1),
    )
    for channel, share in zip((red, green, blue), shares, strict=True):
        drop = share.clamp_(0, 1).mul_(strength)
        torch.sub(value, drop, out=channel).add_(0.5).floor_()
    return levels


def _hue_and_saturation(
    levels: Tensor, value: Tensor, middle: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Hue and saturation in 0..255 from the largest, middle and least channel, ``[n, h, w]``."""
    red, green, blue = levels.unbind(1)
    spread = value - least
    share = (value - middle).div_(spread.clamp(min=1))
    red_leads, green_leads = red == value, green == value
    # The sixth of the circle: even ones end, odd ones start at the leading channel's own color.
    ends = torch.where(
        red_leads, blue == least, torch.where(green_leads, red == least, green == least)
    )
    center = torch.where(red_leads, 0.0, torch.where(green_leads, 2.0, 4.0))
    hue = torch.where(ends, (center + 1).sub_(share), (center - 1).add_(share)).div_(6)
    hue.add_(hue < 0).mul_(255).floor_().mul_(spread > 0)
    saturation = spread.div_(value.clamp(min=1)).mul_(255).floor_()
    return hue, saturation


def to_grayscale(levels: Tensor) -> Tensor:
    """Set all three channels to the gray level of the pixel, in place."""
    return levels.copy_(_luma(levels).unsqueeze(1).expand_as(levels))


def gaussian_blur(levels: Tensor, sigmas: Tensor, kernel: int) -> Tensor:
    """Blur with a normalized Gaussian of `kernel` taps, mirrored at the border, in place.

    `sigmas` in pixels, one per crop ``[n]``. Both directions in float32, rounded once at the end
    (torchvision convolves with the product of the two kernels; rarely one level differs).
    """
    reach = kernel // 2
    distance = torch.arange(-reach, reach + 1, dtype=torch.float32, device=levels.device)
    weights = torch.exp(-0.5 * (distance / sigmas.view(-1, 1)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    padded = F.pad(levels, (0, 0, reach, reach), mode="reflect")
    rows = _symmetric_sum(padded, weights, 2)
    padded = F.pad(rows, (reach, reach, 0, 0), mode="reflect")
    return torch.round(_symmetric_sum(padded, weights, 3), out=levels)


_BOX_PASSES, _UNIT = 3, float(1 << 24)  # Pillow's fixed point has 24 bits


def box_blur(levels: Tensor, sigmas: Tensor) -> Tensor:
    """Blur as Pillow's ``GaussianBlur`` does, level by level, in place.

    Three passes of a box along the rows, then three along the columns, each rounded; the border
    is repeated. The box has the standard deviation `sigmas` in pixels, one per crop ``[n]``, and
    fractional weights at its ends (Gwosdek et al. 2011, eqs. 7 and 11).
    """
    variance = (sigmas**2 / _BOX_PASSES).double()
    whole = (((12 * variance + 1).sqrt().float() - 1) / 2).floor().double()
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = (whole + share / (6 * (variance - (whole + 1) ** 2))).float()
    inner = (_UNIT / (2 * radius + 1)).floor().double()  # weight of a pixel inside of the box
    whole = radius.floor().double()
    outer = ((_UNIT - (2 * whole + 1) * inner) / 2).floor()  # of the two at its ends
    reach = int(whole.max()) + 1
    distance = torch.arange(-reach, reach + 1, device=levels.device).abs()
    weights = torch.where(distance <= whole[:, None], inner[:, None], 0.0)
    weights = torch.where(distance == whole[:, None] + 1, outer[:, None], weights)
    for dim, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        for _ in range(_BOX_PASSES):
            padded = F.pad(levels, pad, mode="replicate").double()
            total = _symmetric_sum(padded, weights, dim)
            levels.copy_(total.add_(_UNIT / 2).div_(_UNIT).floor_())
    return levels


def _symmetric_sum(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Weigh shifted copies along `dim`; equal distances are added first: half the products."""
    reach = weights.shape[1] // 2
    length = padded.shape[dim] - 2 * reach
    total = padded.narrow(dim, reach, length) * _per_crop(weights[:, reach])
    for step in range(1, reach + 1):
        pair = padded.narrow(dim, reach - step, length) + padded.narrow(dim, reach + step, length)
        total.add_(pair.mul_(_per_crop(weights[:, reach + step])))
    return total


def solarize(levels: Tensor, thresholds: Tensor) -> Tensor:
    """Invert levels at or above `thresholds`, one per crop ``[n]``, in place."""
    return levels.copy_(torch.where(levels >= _per_crop(thresholds), 255 - levels, levels))


def equalize(levels: Tensor) -> Tensor:
    """Make the histogram of each channel of each crop even, in place; Pillow's integer rule.

    A channel whose pixels below its highest level are fewer than 255 stays what it is.
    """
    flat = levels.flatten(0, 1).flatten(1).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    highest = counts.gather(1, flat.amax(dim=1, keepdim=True))
    step = (flat.shape[1] - highest) // 255
    below = counts.cumsum(dim=1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    changed = torch.where(step > 0, table.gather(1, flat), flat)
    return levels.copy_(changed.view(levels.shape))


def normalize(levels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn levels into ``(level / 255 - mean) / std``, in place."""
    center = torch.tensor(mean, dtype=torch.float32, device=levels.device).view(3, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=levels.device).view(3, 1, 1)
    return levels.div_(255).sub_(center).div_(scale)


def _luma(levels: Tensor) -> Tensor:
    """Gray level of each pixel ``[n, h, w]``: 16-bit weights; every sum is exact in float32."""
    red, green, blue = levels.unbind(1)
    gray = red * (19595 / 65536)
    return gray.add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536).add_(0.5).floor_()


def _blend(levels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    levels.sub_(other).mul_(_per_crop(factors)).add_(other)
    return levels.clamp_(0, 255).floor_()


def _per_crop(factors: Tensor) -> Tensor:
    return factors.view(-1, 1, 1, 1)
