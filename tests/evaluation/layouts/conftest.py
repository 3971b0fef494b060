"""Small images for layouts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw():
    """Write images of one gray value: that of their place in the list, so that order shows."""

    def write(folder: Path, *names: str, side: int = 8) -> None:
        for value, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path, quality=100)

    return write
