"""Small things to evaluate: drawn images in class folders, backbones as a training exports them."""

from pathlib import Path

import numpy as np
import pytest
from evaluations import write_run
from PIL import Image

COLORS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (200, 50, 40)}


def draw(color, seed, side=24):
    """A noisy picture of one color: noise enough that neighbors are sometimes wrong."""
    noise = np.random.default_rng(seed).normal(0, 60, (side, side, 3))
    return (np.array(color) + noise).clip(0, 255).astype(np.uint8)


def write_classes(folder: Path, counts, *, first=0):
    """Write ``counts[class]`` pictures into a folder for each class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = draw(COLORS.get(name, (128, 128, 128)), seed=[first + number, len(name)])
            Image.fromarray(picture).save(folder / name / f"{name}-{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folders ``bank`` and ``test`` of three classes; not to be changed."""
    root = tmp_path_factory.mktemp("pictures")
    write_classes(root / "bank", {"blue": 14, "green": 12, "red": 13})
    write_classes(root / "test", {"blue": 6, "green": 7, "red": 5}, first=500)
    return root


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A training run with exports of steps 0, 50 and 100; not to be changed."""
    return write_run(tmp_path_factory.mktemp("training"))
