"""Can simple measures find watermarks? White text over photographs, against the same without.

    python benchmarks/watermarks.py SHARED/data --record

What was tried before it was decided to have no scorer of watermarks: thin bright strokes (top-hat)
against thin dark ones, blocks where they prevail, their share, how they repeat (autocorrelation),
and how much detail the corner has. Area under the curve, and recall at 1 % of false alarms.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from recording import write_result
from scipy import ndimage
from scipy.stats import rankdata

from dinoforge.images import decode
from dinoforge.shards.reading import read_samples

OPACITIES = (0.25, 0.5)


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    tar = args.data / "imagenet-sample/imagenet-sample-000000.tar"
    photos = [decode(members["jpg"]) for _, members in read_samples(tar)]
    photos = [photo for photo in photos if min(photo.shape[:2]) >= 180]
    plain = [measure(photo) for photo in photos]
    figures: dict[str, Any] = {}
    for kind, draw in LAYOUTS.items():
        for opacity in OPACITIES:
            marked = [measure(with_text(photo, draw, opacity)) for photo in photos]
            figures[f"{kind} {opacity:.0%}"] = {
                name: compare(*(np.array([row[name] for row in of]) for of in (marked, plain)))
                for name in plain[0]
            }
    print_table(
        (f"{len(photos)} photographs", *plain[0]),
        [(kind, *(f"{a} ({r})" for a, r in row.values())) for kind, row in figures.items()],
    )
    if args.record:
        print(write_result("watermarks", figures).name)


def tiled(size: tuple[int, int]) -> Image.Image:
    width, height = size
    layer = Image.new("L", (2 * width, 2 * height))
    drawing = ImageDraw.Draw(layer)
    for top in range(0, 2 * height, 60):
        for left in range(0, 2 * width, 130):
            drawing.text((left, top), "stockphoto", 255, ImageFont.load_default(18))
    left, top = width // 2, height // 2
    return layer.rotate(30).crop((left, top, left + width, top + height))


def centered(size: tuple[int, int]) -> Image.Image:
    layer = Image.new("L", size)
    font = ImageFont.load_default(size[0] // 6)
    place = (size[0] // 2, size[1] // 2)
    ImageDraw.Draw(layer).text(place, "SAMPLE", 255, font, anchor="mm")
    return layer


def in_corner(size: tuple[int, int]) -> Image.Image:
    layer = Image.new("L", size)
    place, font = (size[0] - 6, size[1] - 6), ImageFont.load_default(16)
    ImageDraw.Draw(layer).text(place, "www.photos.com", 255, font, anchor="rs")
    return layer


LAYOUTS = {"tiled": tiled, "centered": centered, "corner": in_corner}


def with_text(
    photo: NDArray[np.uint8], draw: Callable[[tuple[int, int]], Image.Image], opacity: float
) -> NDArray[np.uint8]:
    """Draw white text, and save the photograph as a JPEG again."""
    mask = np.asarray(draw((photo.shape[1], photo.shape[0])))[..., None] / 255 * opacity
    file = io.BytesIO()
    Image.fromarray((photo * (1 - mask) + 255 * mask).astype(np.uint8)).save(
        file, "JPEG", quality=85
    )
    return decode(file.getvalue())


def measure(photo: NDArray[np.uint8]) -> dict[str, float]:
    """Return what was tried."""
    gray = np.asarray(Image.fromarray(photo).convert("L"), np.float32)
    bright = gray - ndimage.grey_opening(gray, size=(9, 9))
    dark = ndimage.grey_closing(gray, size=(9, 9)) - gray
    of_blocks = [ndimage.uniform_filter(strokes, 24)[::12, ::12] for strokes in (bright, dark)]
    spectrum = np.abs(np.fft.rfft2(bright - bright.mean())) ** 2
    correlation = np.fft.fftshift(np.fft.irfft2(spectrum, s=bright.shape))
    middle_row, middle_column = np.array(correlation.shape) // 2
    rows, columns = np.ogrid[: correlation.shape[0], : correlation.shape[1]]
    is_near = (rows - middle_row) ** 2 + (columns - middle_column) ** 2 < 25**2
    detail = np.abs(ndimage.laplace(gray))
    return {
        "bright against dark": float(
            (bright.mean() - dark.mean()) / (bright.mean() + dark.mean() + 1)
        ),
        "bright blocks": float(((of_blocks[0] > 2 * of_blocks[1]) & (of_blocks[0] > 6)).mean()),
        "strokes": float((bright > 15).mean()),
        "repetition": float(correlation[~is_near].max() / (correlation.max() + 1e-9)),
        "corner": float(detail[-30:, -140:].mean() / (detail.mean() + 1)),
    }


def compare(marked: NDArray[np.float64], plain: NDArray[np.float64]) -> tuple[float, float]:
    """Return the area under the curve, and recall at 1 % of false alarms."""
    ranks = rankdata(np.concatenate([marked, plain]))[: len(marked)]
    least = len(marked) * (len(marked) + 1) / 2
    area = (ranks.sum() - least) / (len(marked) * len(plain))
    return round(float(area), 3), round(float(np.mean(marked > np.quantile(plain, 0.99))), 3)


if __name__ == "__main__":
    main()
