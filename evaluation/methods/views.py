"""Augmented views of training images for linear probes: random resized crop and mirroring."""

import math

import numpy as np
from numpy.typing import NDArray

from dinoforge.randomness import uniforms

__all__ = ["cut_view", "random_views"]

_TRIES = 10
_SCALE = (0.08, 1.0)  # share of the area, as torchvision's RandomResizedCrop and DINOv2's probes
_RATIO = (3 / 4, 4 / 3)  # width over height, uniform in the logarithm


def random_views(digests: NDArray[np.uint8], view: int) -> NDArray[np.float64]:
    """Draw what `cut_view` needs for a view of each image, ``[n, 41]``.

    Draws depend on the SHA-256 ``[n, 32]`` of the bytes of an image and on the number of the view:
    an image that lies elsewhere has the same views.
    """
    keys = np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
    return uniforms(0, "evaluation/views", keys, epoch=view, count=4 * _TRIES + 1)


def cut_view(image: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a random part of an image ``[H, W, 3]``, mirrored or not; resizing comes later."""
    height, width = image.shape[:2]
    low, high = map(math.log, _RATIO)
    for scale, ratio, top, left in draws[:-1].reshape(_TRIES, 4).tolist():
        area = (_SCALE[0] + scale * (_SCALE[1] - _SCALE[0])) * height * width
        aspect = math.exp(low + ratio * (high - low))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
            break
    else:  # the largest part from the center whose ratio is allowed
        rows = min(height, round(width / _RATIO[0]))
        columns = min(width, round(height * _RATIO[1]))
        y, x = (height - rows) // 2, (width - columns) // 2
    part = image[y : y + rows, x : x + columns]
    return part[:, ::-1] if draws[-1] < 0.5 else part
