"""Tiles of the photographs in installed packages: real images for a first run, no download.

The class of a tile is its photograph. Test tiles come from the right quarter of each photograph,
all others from the rest, so no test pixel is in a training tile. Not a benchmark.
"""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.files import write_text
from dinoforge.images import decode, resize
from dinoforge.sources.outputs import mark_cache

__all__ = ["PHOTOGRAPHS", "SEED_PHOTOGRAPHS", "TileFolders", "write_tiles"]

# Photographs in scikit-image 0.25+: mostly public domain or CC0, see its data/README.txt. Left out
# are drawings, masks, and pictures under 300 pixels.
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
# What the curated set should resemble: photographs of things, not textures or microscopy.
SEED_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket")

_LONG_SIDE = 640  # larger photographs are shrunk first, so that all give as many tiles
_TEST_SHARE = 0.25  # of the width


@dataclass(frozen=True)
class TileFolders:
    """Folders of tiles, one subfolder per photograph."""

    pool: Path
    seeds: Path
    test: Path


def write_tiles(
    folder: Path, *, tile: int = 96, stride: int = 64, test_stride: int = 0
) -> TileFolders:
    """Cut every photograph into square tiles and write them as PNG.

    ``folder`` gets ``pool/NAME/``, ``seeds/NAME/`` and ``test/NAME/``. ``tile`` is the side of a
    tile and ``stride`` the distance between tiles, in pixels, ``test_stride`` that between test
    tiles, 0: the same. Tiles that share more than half of their area show the same picture. Tiles
    cut with the same settings are reused, others replaced.

    Raises
    ------
    UsageError
        If scikit-image is not installed.
    """
    folders = TileFolders(folder / "pool", folder / "seeds", folder / "test")
    photographs = _find_photographs()
    strides = (stride, test_stride or stride)
    settings = {
        "tile": tile,
        "strides": list(strides),
        "photographs": sorted(photographs),
        "format": 3,
    }
    done = folder / "tiles.json"
    if not done.exists() or done.read_text(encoding="utf-8") != _json(settings):
        if done.exists():  # remove tiles cut with other settings
            for old in (folders.pool, folders.seeds, folders.test):
                shutil.rmtree(old, ignore_errors=True)
        # Written before the first tile, so that the tiles of a killed run are removed, too.
        write_text(done, _json(settings | {"finished": False}))
        mark_cache(folder)
        for name, path in photographs.items():
            _cut(name, path, folders, tile, strides)
        write_text(done, _json(settings))
    return folders


def _json(settings: dict[str, object]) -> str:
    return json.dumps(settings, indent=1, sort_keys=True) + "\n"


def _find_photographs() -> dict[str, Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UsageError(
            what="the sample photographs of skimage are not installed",
            where="dinoforge quickstart",
            do='pip install "dinoforge[quickstart]", or give your own images: --images FOLDER',
        )
    folder = Path(spec.origin).parent / "data"
    return {Path(name).stem: folder / name for name in PHOTOGRAPHS if (folder / name).is_file()}


def _cut(name: str, path: Path, folders: TileFolders, tile: int, strides: tuple[int, int]) -> None:
    pixels = decode(path.read_bytes())
    height, width = pixels.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    if scale < 1:
        pixels = resize(pixels, round(width * scale), round(height * scale))
    border = round(pixels.shape[1] * (1 - _TEST_SHARE))
    for key, square in _tiles(pixels[:, border:], tile, strides[1]):
        _save(folders.test / name / f"{name}_test_{key}.png", square)
    for index, (key, square) in enumerate(_tiles(pixels[:, :border], tile, strides[0])):
        # Every fourth tile of a seed photograph is a seed; the others are there to be retrieved.
        is_seed = name in SEED_PHOTOGRAPHS and index % 4 == 0
        _save((folders.seeds if is_seed else folders.pool) / name / f"{name}_{key}.png", square)


def _tiles(pixels: np.ndarray, tile: int, stride: int) -> list[tuple[str, np.ndarray]]:
    height, width = pixels.shape[:2]
    return [
        (f"y{y:03d}_x{x:03d}", pixels[y : y + tile, x : x + tile])
        for y in range(0, height - tile + 1, stride)
        for x in range(0, width - tile + 1, stride)
    ]


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)
