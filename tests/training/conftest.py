"""A folder of small pictures, and the recipe of a training that takes milliseconds a step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoforge.config import load_config
from training.config import TrainingConfig

NUM_IMAGES = 10

TINY = Path(__file__).with_name("tiny.yaml")


def make_pictures(folder: Path, count: int = NUM_IMAGES) -> Path:
    """Write pictures of several sizes, PNG and JPEG: colored waves, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        height, width = generator.integers(30, 60, 2)
        rows, columns = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(rows * generator.uniform(0, 0.5) + columns * generator.uniform(0, 0.5))
            for _ in range(3)
        ]
        pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures in a folder that no test changes."""
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """Make folders of pictures with other numbers of them."""
    return make_pictures


@pytest.fixture
def own_pictures(tmp_path: Path) -> Path:
    """Ten pictures in a folder of this test's own."""
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def tiny(pictures: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    """Make the recipe of a tiny training; takes ``key=value`` changes."""

    def make(*changes: str, out: str = "run", images: Path = pictures) -> TrainingConfig:
        places = (f"out={tmp_path / out}", f"data.paths=['{images}']")
        return load_config(TrainingConfig, TINY, [*places, *changes])

    return make
