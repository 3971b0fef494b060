"""A small collection with its index, and the application that serves it, in this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from image_files import encoded
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from dinoforge.demo.server.site import Site

pytest.importorskip("starlette")

SIZE = 112  # of pictures of clients: 8 x 8 patches of a square
NUM = 12


def waves(height: int, width: int, seed: int) -> np.ndarray:
    """Draw a picture that no other seed gives."""
    rows, columns = np.mgrid[0:height, 0:width]
    bands = [
        np.sin(rows * (0.01 + 0.007 * ((seed * 7 + band) % 11)) + columns * 0.002 * (seed + band))
        for band in range(3)
    ]
    return (127.5 + 127 * np.stack(bands, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="session")
def demo_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an index of 12 images, beside its ``images``; not to be changed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "images").mkdir()
    for number in range(NUM):
        picture = Image.fromarray(waves(120 + 10 * number, 200 - 5 * number, number))
        picture.save(folder / f"images/p{number:02d}.png")
    sizes = {"width": 32, "depth": 2, "heads": 2, "patch_size": 14, "image_size": 56}
    # Without LayerScale, whose small start would leave the class token blind to the image.
    config = VitConfig(**sizes, layer_scale=0, init="xavier")
    save_backbone(folder / "vit.safetensors", build_vit(config, seed=0), {"step": "0"})
    words = [f"encoder={folder}/vit.safetensors", f"out={folder}/index", "patches.size=112"]
    assert main(["index", str(folder / "images"), *words]) == 0
    return folder / "index"


@pytest.fixture(scope="module")
def site(demo_index: Path) -> "Site":
    from dinoforge.demo.server.opening import open_site

    return open_site([demo_index], size=SIZE, threads=1)


@pytest.fixture(scope="module")
def client(site) -> "Iterator[TestClient]":
    """A client on this machine that has the CSRF token."""
    from starlette.testclient import TestClient

    from dinoforge.demo.server.app import make_app

    headers = {"X-CSRF-Token": site.csrf}
    app = make_app(site)
    with TestClient(app, base_url="http://127.0.0.1:8765", headers=headers) as client:
        yield client


@pytest.fixture(scope="module")
def upload(client):
    """Upload a picture, bytes or pixels; returns the response."""

    def send(picture, query=""):
        data = picture if isinstance(picture, bytes) else encoded(picture)
        return client.post(f"/api/images{query}", files={"file": ("x.png", data)})

    return send
