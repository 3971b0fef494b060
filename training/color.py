"""Color changes of crops, batched, with the pixel values that Pillow would give.

Crops arrive as uint8 ``[n, 3, h, w]`` and leave normalized in float32. In between they are
*levels*: float32 tensors that hold whole numbers 0..255, so that plain elementwise operations give
the integer results of Pillow on any device. Sources of the formulas: Pillow's blend (truncates),
its luma weights and 8-bit HSV, torchvision's order of operations; each is tested bit by bit.

Not for: geometry (`training.crops`) and random numbers (`training.color_draws`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.training.color_draws import ColorDraws

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "augment_colors",
    "gaussian_blur",
    "normalize",
    "solarize",
    "to_grayscale",
]

# On a CPU, crops are colored in groups whose float copies stay in the L2 cache.
_CACHE_VALUES = 400_000
# On a GPU, in groups that bound the memory of temporaries to about 1 GiB.
_DEVICE_VALUES = 64_000_000


def augment_colors(
    crops: Tensor,
    draws: ColorDraws,
    *,
    blur_kernel: int,
    threshold: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Jitter, gray, blur, solarize and normalize crops as drawn.

    Parameters
    ----------
    crops : Tensor
        uint8 ``[n, 3, h, w]``.
    draws : ColorDraws
        What happens to each of the n crops.
    blur_kernel : int
        Width of the blur in pixels, odd, at most ``2 min(h, w) - 1``.
    threshold : int
        Solarize inverts levels at or above it.
    mean, std : sequence of float
        Of the three channels, in units of 255 levels.

    Returns
    -------
    Tensor
        float32 ``[n, 3, h, w]`` on the device of `crops`; a crop's values do not depend on the
        others.
    """
    colored = torch.empty(crops.shape, dtype=torch.float32, device=crops.device)
    budget = _CACHE_VALUES if crops.device.type == "cpu" else _DEVICE_VALUES
    size = max(1, budget // max(1, crops[0].numel() if len(crops) else 1))
    order = draws.alike_first()
    for start in range(0, len(crops), size):
        rows = order[start : start + size]
        index = _index(rows, crops.device)
        some = draws.take(rows)
        levels = crops.index_select(0, index).float()
        _jitter(levels, some)
        _on_rows(levels, np.flatnonzero(some.gray), to_grayscale)
        blurred = np.flatnonzero(some.sigma)
        _on_rows(levels, blurred, lambda part, s: gaussian_blur(part, s, blur_kernel), some.sigma)
        _on_rows(levels, np.flatnonzero(some.solarize), lambda part: solarize(part, threshold))
        colored.index_copy_(0, index, normalize(levels, mean, std))
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
    """Change some crops in place; without a gather when all are meant."""
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
    """Scale levels by a factor a crop ``[n]``, in place: Pillow's blend with black, truncated."""
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
    """Turn the hue by whole steps of 1/256 circle a crop ``[n]``, in place, through 8-bit HSV.

    Written so that float32 gives Pillow's bytes, which Pillow gets from a mix of float and double:
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
    # How far each channel stays below the largest, as a share of value x saturation: a trapezoid
    # over the circle of six colors.
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
    """Replace all three channels by the gray of the pixel, in place."""
    return levels.copy_(_luma(levels).unsqueeze(1).expand_as(levels))


def gaussian_blur(levels: Tensor, sigmas: Tensor, kernel: int) -> Tensor:
    """Blur with a normalized Gaussian of `kernel` taps, mirrored at the border, in place.

    `sigmas` in pixels, one a crop ``[n]``. Both directions in float32, rounded once at the end
    (torchvision convolves with the product of the two kernels; at most one level differs, rarely).
    """
    reach = kernel // 2
    distance = torch.arange(-reach, reach + 1, dtype=torch.float32, device=levels.device)
    weights = torch.exp(-0.5 * (distance / sigmas.view(-1, 1)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    padded = F.pad(levels, (0, 0, reach, reach), mode="reflect")
    rows = _symmetric_sum(padded, weights, 2)
    padded = F.pad(rows, (reach, reach, 0, 0), mode="reflect")
    return torch.round(_symmetric_sum(padded, weights, 3), out=levels)


def _symmetric_sum(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Weigh shifted copies along `dim`; equal distances are added first: half the products."""
    reach = weights.shape[1] // 2
    length = padded.shape[dim] - 2 * reach
    total = padded.narrow(dim, reach, length) * _per_crop(weights[:, reach])
    for step in range(1, reach + 1):
        pair = padded.narrow(dim, reach - step, length) + padded.narrow(dim, reach + step, length)
        total.add_(pair.mul_(_per_crop(weights[:, reach + step])))
    return total


def solarize(levels: Tensor, threshold: int) -> Tensor:
    """Invert levels at or above `threshold`, in place."""
    return levels.copy_(torch.where(levels >= threshold, 255 - levels, levels))


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
