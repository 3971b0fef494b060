"""Resize (Pillow's kernels: antialiased, a = -0.5 for bicubic) and encode 8-bit pixels."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["encode_jpeg", "encode_webp", "resize", "shrink"]


def resize(
    image: NDArray[np.uint8],
    width: int,
    height: int,
    filter: Literal["bicubic", "lanczos", "box"] = "bicubic",  # noqa: A002 - Pillow's name
) -> NDArray[np.uint8]:
    """Resize RGB ``[H, W, 3]`` or gray ``[H, W]`` uint8 to ``height`` x ``width`` pixels.

    Returns a new array even if the size is unchanged.
    """
    kernel = Image.Resampling[filter.upper()]
    return np.array(Image.fromarray(image).resize((width, height), kernel))


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize RGB so that its longer side is at most ``side`` pixels (Lanczos); else return it."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1.0:
        return image
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return resize(image, width, height, filter="lanczos")


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode RGB ``[H, W, 3]`` or gray ``[H, W]`` uint8 as baseline JPEG, 4:2:0; 1..95."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def encode_webp(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode RGB ``[H, W, 3]`` uint8 as lossy WebP; 1..100."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=quality)
    return file.getvalue()
