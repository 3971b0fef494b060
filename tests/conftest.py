"""What every test may ask for: reference material, a pool and its run, one thread per process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

if TYPE_CHECKING:
    import object_store
    import pool as pools

# No deadline: how long an example takes states how busy the machine is.
hypothesis.settings.register_profile("dinoforge", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("dinoforge")

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """Folder of the reference material: ``DINOFORGE_SHARED`` or ``shared`` beside the project."""
    folder = Path(os.environ.get("DINOFORGE_SHARED", ROOT.parent / "shared"))
    return folder if (folder / "golden").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material (golden values, real images); skips where it is not there."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("needs the shared reference folder (set DINOFORGE_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> "pools.Pool":
    """Real pictures with everything in it that a curation meets; not to be changed."""
    import pool as pools

    return pools.make_pool(tmp_path_factory.mktemp("pool") / "images")


@pytest.fixture(scope="session")
def calm(pool: "pools.Pool", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished, undisturbed curation of the pool; not to be changed."""
    import pool as pools

    out = tmp_path_factory.mktemp("calm") / "run"
    pools.curated(pools.recipe(pool.sources, out))
    return out


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of a real S3 server."""
    import object_store

    for package in ("s3fs", "moto.server"):
        pytest.importorskip(package)
    with object_store.s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def proxy(s3_port: int) -> "Iterator[object_store.FaultyProxy]":
    """A proxy before the server, to which every S3 client goes; nothing fails at first."""
    import object_store
    import s3fs

    before = dict(os.environ)
    s3fs.S3FileSystem.clear_instance_cache()  # of another proxy
    with object_store.FaultyProxy(s3_port).running() as proxy:
        os.environ.update(object_store.environment(proxy.port))
        yield proxy
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def small_quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder ``runs/quickstart`` of a quickstart of a few steps, and what it printed."""
    from quickstarts import run_small

    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    return run_small(tmp_path_factory.mktemp("small") / "runs/quickstart", [])
