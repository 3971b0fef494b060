"""The real demo of a small collection, and Chromium to look at it.

The network is a ViT of 32 dimensions with random weights, to which positions are unknown: equal
pixels then give equal features wherever they are, so what must match and where is known.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

for package in ("playwright.sync_api", "starlette", "onnxruntime"):
    pytest.importorskip(package)
photographs = pytest.importorskip("skimage.data", reason="the photographs come with scikit-image")

NUM = 40
SIZE = 112  # of pictures: 8 x 8 patches of a square
WAIT_S = 60  # for anything: a busy machine is slow, not wrong

T = TypeVar("T")


@dataclass(frozen=True)
class Demo:
    """A server that runs."""

    address: str
    folder: Path  # images, and pictures to upload


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Serve 40 parts of photographs, two of them copies, by two models, by the command itself."""
    folder = tmp_path_factory.mktemp("browser")
    write_images(folder)
    indexes = [make_index(folder, seed) for seed in (0, 1)]
    words = [indexes[0], "--second", indexes[1]]
    for head in make_heads(folder):
        words += ["--head", head]
    with serve(folder, *words) as address:
        yield Demo(address, folder)


@pytest.fixture(scope="session")
def class_demo(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Serve the same images in a folder per photograph."""
    folder = tmp_path_factory.mktemp("classes")
    for path in (demo.folder / "images").iterdir():
        target = folder / "images" / path.name.rpartition("_")[0]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with serve(folder, make_index(folder, 0)) as address:
        yield Demo(address, folder)


@contextmanager
def serve(folder: Path, *words: object) -> Iterator[str]:
    """Run ``dinoforge demo`` with these words; yields its address."""
    command = [sys.executable, "-m", "dinoforge.cli.main", "demo", *words]
    command += ["--port", "0", "--no-browser", "--threads", "1", "--size", str(SIZE)]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, stderr=log)
    try:
        yield address_in(folder / "log.txt", server)
    finally:
        server.terminate()
        server.wait(WAIT_S)


def write_images(folder: Path) -> None:
    """Write the collection, and pictures to upload beside it."""
    (folder / "images").mkdir()
    names = ("chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    for name in names:
        picture = Image.fromarray(getattr(photographs, name)()).convert("RGB")
        width, height = picture.size
        for number in range(NUM // len(names)):
            left, top = width * (number % 4) // 8, height * (number // 4) // 4
            part = picture.crop((left, top, left + width // 2, top + height // 2))
            part.resize((168, 140)).save(folder / f"images/{name}_{number}.png")
    shutil.copy(folder / "images/chelsea_0.png", folder / "images/rocket_7.png")
    Image.fromarray(photographs.astronaut()).save(folder / "person.jpg")
    # Noise in blocks of patches, and the same moved by two patches to the right and one down.
    blocks = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    blocks = blocks.repeat(14, axis=0).repeat(14, axis=1)
    Image.fromarray(blocks[14:126, 28:]).save(folder / "noise.png")
    Image.fromarray(blocks[:112, :112]).save(folder / "moved.png")
    # Two colors, half and half, and the same the other way round.
    halves = np.full((112, 112, 3), (200, 40, 40), np.uint8)
    halves[:, 56:] = (30, 60, 180)
    Image.fromarray(halves).save(folder / "halves.png")
    Image.fromarray(halves[:, ::-1]).save(folder / "turned.png")


def make_index(folder: Path, seed: int) -> Path:
    """Index the images by a small network; returns the folder of the index."""
    import torch

    from dinoforge.cli.main import main
    from dinoforge.models.config import VitConfig
    from dinoforge.models.vit import build_vit
    from dinoforge.models.weights import save_backbone

    sizes = {"width": 32, "depth": 2, "heads": 2, "patch_size": 14, "image_size": 56}
    # Without LayerScale, whose small start would leave the class token blind to the image.
    model = build_vit(VitConfig(**sizes, layer_scale=0, init="xavier"), seed=seed)
    with torch.no_grad():
        model.pos_embed.zero_()
    weights = folder / f"vit{seed}.safetensors"
    save_backbone(weights, model, {"step": "0"})
    out = folder / f"index{seed}"
    words = [f"encoder={weights}", f"out={out}", f"patches.size={SIZE}"]
    assert main(["index", str(folder / "images"), *words]) == 0
    return out


def make_heads(folder: Path) -> list[Path]:
    """Write heads of the first network with random weights: three classes, and depth."""
    from dinoforge.encoders.backbone import weights_hash
    from dinoforge.evaluation.methods.dense.depth_head import DepthBins
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes, save_head
    from dinoforge.evaluation.methods.dense.linear_head import LinearHead

    notes = HeadNotes(
        backbone=weights_hash(folder / "vit0.safetensors"),
        architecture="vit",
        blocks=(1,),
        input_size=(SIZE, SIZE),
        classes=("sky", "fur", "cup"),
    )
    depth = replace(notes, classes=(), bins=DepthBins(max_depth=4, count=8))
    files = [folder / f"part-00000.head-{name}.safetensors" for name in ("things", "depth")]
    for file, head, of in zip(files, (3, 8), (notes, depth), strict=True):
        save_head(file, LinearHead(32, head, seed=0).eval(), of)
    return files


def address_in(log: Path, server: subprocess.Popen) -> str:
    """Wait until the server prints where it is."""
    for _ in range(3000):
        if match := re.search(r"http://[\d.]+:\d+/", log.read_text()):
            return match[0]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """Start the browser of the system; nothing is downloaded.

    Per module: while it runs, no other test of this process could run an event loop.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * WAIT_S)

    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(demo: Demo, chromium: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open an address of the demo; fail on errors in its console and on requests to other hosts."""
    faults: list[str] = []
    contexts: list[BrowserContext] = []

    def open_(address: str = "", of: Demo = demo, **options: object) -> "Page":
        options = {"viewport": {"width": 1280, "height": 860}} | options
        context = chromium.new_context(base_url=of.address, **options)
        contexts.append(context)
        context.set_default_timeout(1000 * WAIT_S)
        page = context.new_page()
        # What the network refuses on purpose (a face, an expired picture) is no fault of the page.
        page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        own = (of.address, "blob:", "data:")
        page.on("request", lambda one: None if one.url.startswith(own) else faults.append(one.url))
        page.goto(f"/{address}")
        settle(page)
        return page

    def is_fault(line: object) -> bool:
        return line.type == "error" and "status of 4" not in line.text

    yield open_
    for context in contexts:
        context.close()
    assert not faults


def settle(page: "Page") -> None:
    """Wait until the address is drawn and no view computes."""
    page.wait_for_selector("h1")
    for _ in range(2):  # what one task has found may start another one in the next frame
        page.evaluate("() => new Promise(requestAnimationFrame)")
        page.wait_for_selector("[aria-busy]", state="detached")


def wait_until(page: "Page", read: Callable[[], T], expected: T) -> None:
    """Read a value until it is the expected one, as ``expect`` does with what it knows."""
    ends = time.monotonic() + WAIT_S
    while (value := read()) != expected and time.monotonic() < ends:
        page.wait_for_timeout(50)
    assert value == expected


def upload_picture(page: "Page", path: Path) -> str:
    """Add a picture; returns what addresses call it."""
    with page.expect_response(lambda one: one.url.endswith("/api/images")) as answer:
        page.set_input_files("#file", path)
    ref = f"u{answer.value.json()['id']}"
    page.wait_for_url(f"**{ref}*")
    settle(page)
    return ref
