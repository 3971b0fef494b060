"""Edits that make a copy of an image: what happens to pictures on their way through the web."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from dinoforge.randomness import Draws

__all__ = ["EDIT_KINDS", "edited"]

_QUALITY = 90  # of the JPEG in which every edited copy is written


def edited(pixels: NDArray[np.uint8], kind: str, draws: Draws) -> bytes:
    """Edit a picture and write it as JPEG.

    Parameters
    ----------
    pixels : ndarray
        Upright RGB ``[H, W, 3]``, uint8.
    kind : str
        A key of `EDIT_KINDS`.
    draws : Draws
        How strongly.

    Returns
    -------
    bytes
        A JPEG file of quality 90, or 30 to 75 for the kind ``jpeg``.
    """
    image = EDIT_KINDS[kind](Image.fromarray(pixels), draws)
    quality = draws.integer(30, 76) if kind == "jpeg" else _QUALITY
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _same(image: Image.Image, _: Draws) -> Image.Image:
    return image


def _resized(image: Image.Image, draws: Draws) -> Image.Image:
    """Scale both sides by the same factor from 0.5 to 1.5."""
    factor = draws.uniform(0.5, 1.5)
    width, height = (max(8, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _flipped(image: Image.Image, _: Draws) -> Image.Image:
    return ImageOps.mirror(image)


def _cropped(image: Image.Image, draws: Draws) -> Image.Image:
    """Keep 90 to 97 % of each side, anywhere."""
    share = draws.uniform(0.90, 0.97)
    width, height = (max(1, round(side * share)) for side in image.size)
    left = draws.integer(0, image.width - width + 1)
    top = draws.integer(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def _brightened(image: Image.Image, draws: Draws) -> Image.Image:
    """Multiply by 0.65 to 0.85 or by 1.15 to 1.35."""
    by = draws.uniform(0.15, 0.35)
    return ImageEnhance.Brightness(image).enhance(1 + (by if draws.uniform() < 0.5 else -by))


def _written_on(image: Image.Image, _: Draws) -> Image.Image:
    """Write a line of text across the lower part."""
    canvas = image.copy()
    at = (image.width // 16, image.height - max(12, image.height // 6))
    ImageDraw.Draw(canvas).text(at, "dinoforge", fill=(255, 255, 255))
    return canvas


EDIT_KINDS: Mapping[str, Callable[[Image.Image, Draws], Image.Image]] = {
    "jpeg": _same,
    "resize": _resized,
    "flip": _flipped,
    "crop": _cropped,
    "brightness": _brightened,
    "text": _written_on,
}
