"""Predictions of one image from many views: sliding windows, several scales, mirrored.

All work on a callable ``logits_of(image [1, 3, H, W]) -> [1, K, h, w]``, whatever is behind it; its
output is upsampled to the pixels that it saw. Shapes: H x W pixels, K classes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dinoforge.evaluation.methods.dense.upsampling import upsample

__all__ = ["LogitsOf", "multi_scale", "padded", "slide", "windows"]

LogitsOf = Callable[[Tensor], Tensor]


def windows(side: int, crop: int, stride: int) -> list[int]:
    """Return where windows start along a side: every ``stride`` pixels, the last one shifted back.

    A side that is not longer than the window has one window, from 0.
    """
    starts = range(0, max(side - crop, 0) + stride, stride)
    return sorted({min(start, max(side - crop, 0)) for start in starts})


@torch.no_grad()
def slide(logits_of: LogitsOf, image_13HW: Tensor, *, crop: int, stride: int) -> Tensor:
    """Average the logits of overlapping windows; every pixel divides by the windows that saw it.

    Windows are ``crop`` x ``crop`` pixels, or the image where it is smaller, as in the sliding
    inference of mmsegmentation. Returns ``[1, K, H, W]``.
    """
    height, width = image_13HW.shape[-2:]
    total = count = image_13HW.new_zeros(())
    for top in windows(height, crop, stride):
        for left in windows(width, crop, stride):
            window = image_13HW[..., top : top + crop, left : left + crop]
            logits = upsample(logits_of(window), window.shape[-2:])
            around = (left, width - left - window.shape[-1], top, height - top - window.shape[-2])
            total = total + F.pad(logits, around)
            count = count + F.pad(torch.ones_like(logits[:, :1]), around)
    return total / count


@torch.no_grad()
def multi_scale(
    logits_of: LogitsOf,
    image_13HW: Tensor,
    *,
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    multiple: int = 1,
    flip: bool = True,
) -> Tensor:
    """Average probabilities over resized and mirrored copies of an image: ``[1, K, H, W]``.

    Sides are rounded to ``multiple`` pixels, such as the patch size. Probabilities, not logits, are
    averaged, as in mmsegmentation. ``logits_of`` may be a `slide` of fixed windows.
    """
    height, width = image_13HW.shape[-2:]
    total = image_13HW.new_zeros(())
    for scale in scales:
        size = [max(round(side * scale / multiple), 1) * multiple for side in (height, width)]
        view = upsample(image_13HW, size)
        for mirrored in (False, True)[: 1 + flip]:
            logits = logits_of(view.flip(-1) if mirrored else view)
            probs = upsample(logits, (height, width)).softmax(dim=1)
            total = total + (probs.flip(-1) if mirrored else probs)
    return total / (len(scales) * (1 + flip))


def padded(logits_of: LogitsOf, multiple: int) -> LogitsOf:
    """Let a function of sides that are multiples of the patch size take any size.

    Images are padded with zeros on all sides, one pixel more at the end of an odd rest, as DINOv2
    does; logits are upsampled to the padded pixels, and the padding is cut off again.
    """

    def of_any_size(image_13HW: Tensor) -> Tensor:
        height, width = image_13HW.shape[-2:]
        top, left = (-side % multiple // 2 for side in (height, width))
        bottom, right = -height % multiple - top, -width % multiple - left
        image = F.pad(image_13HW, (left, right, top, bottom))
        logits = upsample(logits_of(image), image.shape[-2:])
        return logits[..., top : top + height, left : left + width]

    return of_any_size
