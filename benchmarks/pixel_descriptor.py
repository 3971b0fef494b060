"""Fit the matrix of the pixel descriptor, on pictures that anybody may use.

    python benchmarks/pixel_descriptor.py     # writes dinoforge/encoders/pixels-1.safetensors

6,000 drawn pictures ("dead leaves": shapes that cover each other, sizes by a power law, as in
natural images; Lee, Mumford and Huang 2001) and 6,000 tiles of the photographs inside scikit-image
(public domain or CC0 for the most part). Each is edited once. The matrix solves the generalized
eigenproblem (covariance of features) v = lambda (covariance of what edits change) v, keeps the 128
largest, and divides each direction by lambda ** 0.25: between full whitening (0.5) and none (0).
The exponent hardly matters (recall +-1 point from 0.1 to 0.4), nor do 96 to 192 dimensions.

About 90 CPU seconds. What it finds on other pictures is in docs/decisions/0004.
"""

import argparse
import importlib.util
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from safetensors.numpy import save

from dinoforge.encoders.pixels import NUM_FEATURES, SIDE, pixel_features, small_picture
from dinoforge.files import write_bytes
from dinoforge.images import decode
from dinoforge.sources.photographs import PHOTOGRAPHS

Picture = NDArray[np.uint8]

DIM = 128
FIT_EDITS = ("crop94", "crop90", "jpeg", "bright", "combo", "half")
_OUT = Path(__file__).parent.parent / "dinoforge/encoders/pixels-1.safetensors"
_SIDE = 48  # of the pictures drawn and cut


def edit(picture: Picture, kind: str, rng: np.random.Generator) -> Picture:
    """Make an edited copy; every copy goes through JPEG once more."""
    image = Image.fromarray(picture)
    size = image.size
    quality = 90
    if kind in ("jpeg", "combo", "combo2"):
        quality = int(rng.integers(30 if kind == "jpeg" else 40, 76))
    if kind in ("flip", "combo", "combo2"):
        image = ImageOps.mirror(image)
    if kind.startswith("crop") or kind == "combo":
        image = _cropped(image, int(kind[4:]) / 100 if kind != "combo" else 0.94, rng)
    if kind in ("crop94", "combo"):
        image = image.resize(size, Image.Resampling.BICUBIC)
    if kind in ("resize", "half", "combo2"):
        factor = {"half": 0.5, "combo2": 0.75}.get(kind) or rng.uniform(0.5, 1.5)
        smaller = (max(8, round(side * factor)) for side in size)
        image = image.resize(tuple(smaller), Image.Resampling.BICUBIC)
    if kind in ("bright", "combo"):
        by = rng.uniform(0.15, 0.4) * rng.choice([-1, 1]) if kind == "bright" else 0
        by = by or rng.uniform(-0.2, 0.2)
        image = ImageEnhance.Brightness(image).enhance(1 + by)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return decode(file.getvalue())


def _cropped(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Cut to ``share`` of each side, anywhere."""
    width, height = (max(1, round(side * share)) for side in image.size)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def draw_leaves(rng: np.random.Generator) -> Picture:
    """Draw shapes that cover each other on a graded ground."""
    side = 2 * _SIDE
    down, right = np.mgrid[:side, :side] / side - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + np.cos(turn) * right + np.sin(turn) * down, 0, 1)[..., None]
    first, second = _color(rng), _color(rng)
    canvas = first * (1 - share) + (first + second) / 2 * share
    num = int(rng.choice([3, 8, 20, 60, 150]))
    radii = _power_law(rng, num, smallest=0.02 if num > 20 else 0.05)
    if rng.uniform() < 0.5:
        radii = np.sort(radii)[::-1]
    for radius in radii * side:
        mask = _shape(rng, radius, side)
        slope = rng.normal(size=2) * 40
        grain = rng.normal(size=(side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
        shade = right * slope[0] + down * slope[1] + grain * rng.exponential(6)
        canvas[mask] = (_color(rng) + shade[..., None])[mask]
    whole = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return np.asarray(whole.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _color(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a color whose tint varies less than its brightness."""
    luma = 128 + 60 * rng.normal()
    blue, red = 22 * rng.normal(size=2)
    return np.array([luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue])


def _power_law(rng: np.random.Generator, num: int, *, smallest: float) -> NDArray[np.float64]:
    """Radii with density r ** -3 between ``smallest`` and 0.5: no scale is special."""
    return (smallest**-2 + rng.uniform(size=num) * (0.5**-2 - smallest**-2)) ** -0.5


def _shape(rng: np.random.Generator, radius: float, side: int) -> NDArray[np.bool_]:
    corners = int(rng.choice([3, 4, 5, 24]))
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    if corners < 24:
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    x, y = radius * np.cos(angles), radius * np.sin(angles) * rng.uniform(0.4, 1)
    turn = rng.uniform(0, 2 * np.pi)
    center = rng.uniform(-0.1, 1.1, 2) * side
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(list(zip(center[0] + x, center[1] + y, strict=True)), fill=1)
    return np.asarray(mask) > 0


def cut_tiles(rng: np.random.Generator, num: int) -> list[Picture]:
    """Cut squares of any size out of photographs, in turn."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "pip install scikit-image"
    folder = Path((spec.submodule_search_locations or [""])[0]) / "data"
    photographs = [decode((folder / name).read_bytes()) for name in PHOTOGRAPHS]
    tiles = []
    for number in range(num):
        photograph = photographs[number % len(photographs)]
        height, width = photograph.shape[:2]
        side = int(min(height, width) * rng.uniform(0.1, 0.9))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        tiles.append(small_picture(photograph[top : top + side, left : left + side], _SIDE))
    return tiles


def fit(
    features: NDArray[np.float64], edited: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return mean ``[F]`` and matrix ``[F, DIM]``."""
    mean = features.mean(axis=0)
    change = features - edited
    noise = change.T @ change / len(change)
    noise += 1e-3 * np.trace(noise) / NUM_FEATURES * np.eye(NUM_FEATURES)
    whiten = np.linalg.inv(np.linalg.cholesky(noise))
    ratios, directions = np.linalg.eigh(whiten @ np.cov(features.T) @ whiten.T)
    ratios, directions = ratios[::-1][:DIM], directions[:, ::-1][:, :DIM]
    matrix = whiten.T @ directions * ratios**-0.25
    return mean.astype(np.float32), (matrix / np.abs(matrix).max()).astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--pictures", type=int, default=6000, help="of each kind")
    args = parser.parse_args()
    rng = np.random.default_rng(3)
    pictures = [draw_leaves(rng) for _ in range(args.pictures)] + cut_tiles(rng, args.pictures)
    copies = [edit(p, FIT_EDITS[i % len(FIT_EDITS)], rng) for i, p in enumerate(pictures)]
    features, edited = (_features(images) for images in (pictures, copies))
    mean, matrix = fit(features, edited)
    notes = {"command": "python benchmarks/pixel_descriptor.py", "pictures": str(len(pictures))}
    write_bytes(args.out, save({"mean": mean, "matrix": matrix}, notes))
    print(f"{args.out}: matrix {matrix.shape}, {len(pictures):,} pictures")


def _features(images: list[Picture]) -> NDArray[np.float64]:
    small = np.stack([small_picture(image, SIDE) for image in images])
    parts = [pixel_features(small[i : i + 256]) for i in range(0, len(small), 256)]
    return np.concatenate(parts).astype(np.float64)


if __name__ == "__main__":
    main()
