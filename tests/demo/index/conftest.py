"""A run folder that trained nothing, class folders of pictures, and their index."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoforge.config import load_config
from dinoforge.demo.index.config import IndexConfig
from dinoforge.demo.index.pipeline import PIPELINE
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone
from dinoforge.runs import Run
from dinoforge.stages import run_pipeline
from dinoforge.stages.executor import InProcess
from dinoforge.steps import export_file

NUM = 20  # pictures that decode, of 3 classes; one more file is no picture

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a training run whose only export is step 0."""
    run = tmp_path_factory.mktemp("training")
    config = VitConfig(
        width=32, depth=2, heads=2, patch_size=8, image_size=32, layer_scale=0, init="xavier"
    )
    save_backbone(export_file(run, 0), build_vit(config, seed=0), {"step": "0"})
    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``a``, ``b`` and ``c`` with pictures of blocks of colors, of many sizes."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(NUM):
        draw = np.random.default_rng(number)
        blocks = draw.integers(0, 256, (6, 9 - number % 4, 3), np.uint8)
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        picture = Image.fromarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8)))
        picture.save(folder / f"{number:02d}.png")
    (root / "a/00.json").write_text(json.dumps({"license": "CC0-1.0", "url": "u", "other": 1}))
    (root / "a/99.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return root


@pytest.fixture(scope="session")
def make(training: Path, pictures: Path) -> Make:
    """Make an index in a folder; further words are keys of the recipe."""

    def run(out: Path, *words: str) -> Path:
        keys = [f"sources=[{pictures}]", f"encoder={training}", f"out={out}", "patches.size=48"]
        keys += ["partition_images=8", "workers=0", "thumbnails.side=40", *words]
        config = load_config(IndexConfig, None, keys)
        with Run.open(out, config, command="index", on_change="update") as opened:
            run_pipeline(PIPELINE, opened.folder, config, InProcess())
        return out

    return run


@pytest.fixture(scope="session")
def index(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an index in three partitions; not to be changed."""
    return make(tmp_path_factory.mktemp("index") / "index")
