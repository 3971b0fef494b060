"""What every test may ask for: the shared reference material, and one thread per process."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

# No deadline: how long an example takes says how busy the machine is.
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
