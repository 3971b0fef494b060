"""Small pictures inside a page as data URIs: JPEG for photographs, PNG for maps of values."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.images.resize import encode_jpeg, shrink

__all__ = ["Thumbnail", "pixel_map", "thumbnail"]


@dataclass(frozen=True)
class Thumbnail:
    """A picture ready for ``<img src>``, with its own width and height in pixels."""

    uri: str
    width: int
    height: int
    is_map: bool = False  # enlarged without smoothing: one square per value


def thumbnail(image: NDArray[np.uint8], *, side: int = 96, quality: int = 82) -> Thumbnail:
    """Shrink an RGB picture ``[H, W, 3]`` so that its longer side is at most ``side`` pixels."""
    small = shrink(image, side)
    height, width = small.shape[:2]
    return Thumbnail(_uri("image/jpeg", encode_jpeg(small, quality)), width, height)


def pixel_map(values: NDArray[np.uint8]) -> Thumbnail:
    """Encode a small map ``[h, w]`` or ``[h, w, 3]`` as lossless PNG; the page enlarges it."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(file, format="PNG", optimize=True)
    height, width = values.shape[:2]
    return Thumbnail(_uri("image/png", file.getvalue()), width, height, is_map=True)


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
