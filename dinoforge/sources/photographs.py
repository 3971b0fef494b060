"""Real photographs that installed packages ship, cut into tiles: images for a first try.

The class of a tile is its photograph. The right quarter of every photograph is cut off before
tiling and gives the test tiles, so that no test pixel is in a training tile. Not a benchmark:
it is here to see the whole path work on real pixels without a download.
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

__all__ = ["PHOTOGRAPHS", "SEED_PHOTOGRAPHS", "TileFolders", "write_tiles"]

# Package -> photographs inside its wheel (scikit-image 0.25+: public domain or CC0 for the most
# part, see its data/README.txt). Left out: drawings, masks, and pictures under 300 pixels.
PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    )
}
# What the curated set should be like: photographs of things, as against textures and microscopy.
SEED_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket")

_LONG_SIDE = 640  # larger photographs are shrunk first, so that each gives as many tiles
_TEST_SHARE = 0.25  # of the width


@dataclass(frozen=True)
class TileFolders:
    """Folders of tiles, one sub-folder a photograph."""

    pool: Path
    seeds: Path
    test: Path


def write_tiles(folder: Path, *, tile: int = 48, stride: int = 32) -> TileFolders:
    """Cut every photograph into square tiles and write them as PNG.

    Parameters
    ----------
    folder : Path
        Gets ``pool/NAME/``, ``seeds/NAME/`` and ``test/NAME/``; tiles there are reused when
        they were cut in the same way, and replaced when they were not.
    tile, stride : int
        Side of a tile and distance between tiles, in pixels.

    Raises
    ------
    UsageError
        If scikit-image is not installed.
    """
    folders = TileFolders(folder / "pool", folder / "seeds", folder / "test")
    photographs = _find_photographs()
    settings = {"tile": tile, "stride": stride, "photographs": sorted(photographs), "format": 2}
    done = folder / "tiles.json"
    if not done.exists() or done.read_text(encoding="utf-8") != _json(settings):
        if done.exists():  # no tile cut in another way stays among the new ones
            for old in (folders.pool, folders.seeds, folders.test):
                shutil.rmtree(old, ignore_errors=True)
        # From the first tile on: of a cut that was killed none stays either.
        write_text(done, _json(settings | {"finished": False}))
        for name, path in photographs.items():
            _cut(name, path, folders, tile, stride)
        write_text(done, _json(settings))
    return folders


def _json(settings: dict[str, object]) -> str:
    return json.dumps(settings, indent=1, sort_keys=True) + "\n"


def _find_photographs() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place, names in PHOTOGRAPHS.items():
        package, _, inside = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UsageError(
                what=f"the sample photographs of {package} are not installed",
                where="dinoforge quickstart",
                do='pip install "dinoforge[quickstart]", or give your own images: --images FOLDER',
            )
        root = Path(spec.origin).parent / inside
        found |= {Path(name).stem: root / name for name in names if (root / name).is_file()}
    return found


def _cut(name: str, path: Path, folders: TileFolders, tile: int, stride: int) -> None:
    pixels = _shrunk(decode(path.read_bytes()))
    border = round(pixels.shape[1] * (1 - _TEST_SHARE))
    _write(folders.test / name, pixels[:, border:], tile, stride)
    train = _tiles(pixels[:, :border], tile, stride)
    is_seed = name in SEED_PHOTOGRAPHS
    for index, (key, square) in enumerate(train):
        # Of a seed photograph every fourth tile is a seed; the others are there to be found.
        role = folders.seeds if is_seed and index % 4 == 0 else folders.pool
        _save(role / name / f"{name}_{key}.png", square)


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    return resize(pixels, round(width * scale), round(height * scale))


def _tiles(pixels: np.ndarray, tile: int, stride: int) -> list[tuple[str, np.ndarray]]:
    height, width = pixels.shape[:2]
    return [
        (f"y{y:03d}_x{x:03d}", pixels[y : y + tile, x : x + tile])
        for y in range(0, height - tile + 1, stride)
        for x in range(0, width - tile + 1, stride)
    ]


def _write(folder: Path, pixels: np.ndarray, tile: int, stride: int) -> None:
    for key, square in _tiles(pixels, tile, stride):
        _save(folder / f"{folder.name}_test_{key}.png", square)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)
