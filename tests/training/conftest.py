"""A folder of small pictures, and the recipe of a training that takes milliseconds a step."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoforge.config import load_config
from dinoforge.training.config import TrainingConfig

NUM_IMAGES = 10

TINY = Path(__file__).with_name("tiny.yaml")

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., None]:
    """Start several rank processes of a script and wait for them."""
    return _run_ranks


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_ranks(count: int, script: Path, arguments: Sequence[str], timeout_s: float = 300) -> None:
    """Run `count` ranks of a script; fails with what the first failing one printed."""
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        reported = [process.communicate(timeout=timeout_s)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    for rank, process in enumerate(ranks):
        assert process.returncode == 0, f"rank {rank}:\n{reported[rank]}"
