"""Attention as pictures: colored maps, an overlay, masks, and a sheet with all of them.

Colors are those of viridis: in order of brightness, also for the color-blind and in print.

Shapes: H heads, X rows and Y columns of patches, h x w pixels.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dinoforge.files import write_atomic
from dinoforge.images import resize

__all__ = ["VIRIDIS", "Pixels", "draw_maps", "make_sheet", "shaded", "stretched", "write_png"]

Pixels = NDArray[np.uint8]

# Ten colors of matplotlib's viridis (CC0), between which is interpolated.
_VIRIDIS = (
    *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
    *((31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37)),
)
_COLORS = np.array(
    [np.interp(np.linspace(0, 9, 256), np.arange(10), band) for band in np.array(_VIRIDIS).T]
)
VIRIDIS: Pixels = np.round(_COLORS.T).astype(np.uint8)  # [256, 3]

_TILE = 240  # pixels of the longer side of a picture in a sheet
_NARROWEST = 72  # pixels of a column: its name has to fit
_NAME, _GAP, _FONT = 20, 8, 14  # pixels
_SHADE = 4  # pixels outside a mask are divided by it


def stretched(maps: NDArray[np.floating]) -> Pixels:
    """Stretch each map ``[..., X, Y]`` to 0 .. 255; a uniform one becomes 0."""
    low = maps.min(axis=(-2, -1), keepdims=True)
    high = maps.max(axis=(-2, -1), keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.round((maps - low) / spread * 255).astype(np.uint8)


def draw_maps(
    image: Pixels,
    attention_HXY: NDArray[np.floating],
    masks_HXY: NDArray[np.bool_] | None = None,
    *,
    smooth: bool = False,
) -> dict[str, Pixels]:
    """Draw the pictures of one image ``[h, w, 3]``, uint8, all of its size, by their names.

    ``head-00`` ..., ``mean`` of the heads and ``overlay`` (half image, half mean) are RGB, each map
    stretched on its own; ``mask-00`` ... are 0 or 255, ``[h, w]``. Patches are squares of pixels,
    or ``smooth``: maps, but not masks, are resampled (bicubic).
    """
    height, width = image.shape[:2]
    patch = height // attention_HXY.shape[1]

    def colored(map_XY: NDArray[np.floating]) -> Pixels:
        gray = stretched(map_XY)
        return VIRIDIS[resize(gray, width, height) if smooth else _squares(gray, patch)]

    attention_HXY = attention_HXY.astype(np.float64)
    drawn = {f"head-{number:02d}": colored(one) for number, one in enumerate(attention_HXY)}
    drawn["mean"] = colored(attention_HXY.mean(axis=0))
    drawn["overlay"] = ((image.astype(np.uint16) + drawn["mean"]) // 2).astype(np.uint8)
    for number, mask in enumerate(() if masks_HXY is None else masks_HXY):
        drawn[f"mask-{number:02d}"] = _squares(mask * np.uint8(255), patch)
    return drawn


def make_sheet(image: Pixels, drawn: Mapping[str, Pixels]) -> Pixels:
    """Lay out an image, its overlay and all maps on one page, with their names below.

    A mask is shown as the image, dark outside of it. Pictures are shrunk to at most 240 pixels.
    """
    first = {"image": image, "overlay": drawn["overlay"], "mean": drawn["mean"]}
    tiles = {
        name: _tile(picture) for name, picture in {**first, **drawn}.items() if picture.ndim == 3
    }
    for name, mask in drawn.items():
        if mask.ndim == 2:
            tiles[name] = _tile(shaded(image, mask))
    height, width = tiles["image"].shape[:2]
    column, row = max(width, _NARROWEST) + _GAP, height + _NAME + _GAP
    # About as wide as high.
    columns = min(len(tiles), math.ceil(math.sqrt(len(tiles) * row / column)))
    rows = math.ceil(len(tiles) / columns)
    page = Image.new("RGB", (columns * column + _GAP, rows * row + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT)
    for at, (name, picture) in enumerate(tiles.items()):
        left, top = at % columns * column + _GAP, at // columns * row + _GAP
        page.paste(Image.fromarray(picture), (left, top))
        draw.text((left, top + height + 2), name, fill="black", font=font)
    return np.array(page)


def shaded(image: Pixels, mask: Pixels) -> Pixels:
    """Return an image ``[h, w, 3]`` that is dark outside of a mask ``[h, w]``."""
    return np.where(mask[..., None] > 0, image, image // _SHADE)


def write_png(path: Path, picture: Pixels) -> None:
    """Write a picture ``[h, w, 3]`` or ``[h, w]`` atomically."""
    image = Image.fromarray(picture)
    write_atomic(path, lambda file: image.save(file, "PNG"))


def _squares(values_XY: Pixels, patch: int) -> Pixels:
    return values_XY.repeat(patch, axis=0).repeat(patch, axis=1)


def _tile(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    scale = min(1.0, _TILE / max(height, width))
    return resize(picture, max(1, round(width * scale)), max(1, round(height * scale)), "box")
