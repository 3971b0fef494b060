"""The views as pictures: uint8 ``[h, w, 3]``, as `PIL.Image.fromarray` takes them."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dinoforge.attention.drawing import VIRIDIS, Pixels, stretched
from dinoforge.demo.views.matching import Matches

__all__ = ["draw_colors", "draw_map", "draw_matches"]

_GAP = 8  # pixels between two pictures


def draw_colors(colors_XYC: NDArray[np.floating]) -> Pixels:
    """Draw the colors of `ColorModel.color`, one pixel per patch."""
    return np.round(255 * colors_XYC).astype(np.uint8)


def draw_map(values_XY: NDArray[np.floating]) -> Pixels:
    """Draw one value per patch in viridis, from the lowest to the highest, one pixel per patch."""
    return VIRIDIS[stretched(values_XY)]


def draw_matches(a: Pixels, b: Pixels, matches: Matches, *, patch: int) -> Pixels:
    """Draw two images of whole patches side by side, with a line per match.

    ``patch`` is the side of a patch in pixels. The hue of a line goes from left to right in the
    first image, its lightness from top to bottom: as on the page of the demo.
    """
    (rows, columns), left = (side // patch for side in a.shape[:2]), a.shape[1] + _GAP
    page = Image.new("RGB", (left + b.shape[1], max(len(a), len(b))), "white")
    page.paste(Image.fromarray(a), (0, 0))
    page.paste(Image.fromarray(b), (left, 0))
    draw = ImageDraw.Draw(page)
    # The most similar last, on top.
    for (ya, xa), (yb, xb) in zip(matches.a[::-1] + 0.5, matches.b[::-1] + 0.5, strict=True):
        color = colorsys.hls_to_rgb((0.69 + 0.53 * xa / columns) % 1, 0.75 - 0.4 * ya / rows, 0.9)
        line = (patch * xa, patch * ya, left + patch * xb, patch * yb)
        draw.line(line, tuple(round(255 * band) for band in color), width=2)
    return np.array(page)
