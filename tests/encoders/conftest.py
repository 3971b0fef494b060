"""Pictures of many sizes, drawn by formula: the same on every machine."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray


def draw(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Draw colored waves, rounded so that a sine of another library gives the same bytes."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(rows * (0.05 + 0.031 * (seed + band)) + columns * (0.17 - 0.023 * (seed - band)))
        for band in range(3)
    ]
    return (127.5 + 127 * np.round(np.stack(waves, axis=-1), 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def picture() -> Callable[..., NDArray[np.uint8]]:
    """Draw a picture of a height and width; ``seed`` makes it another."""
    return draw


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Ten pictures: large, small, wide, tall, of one pixel, of one color."""
    sizes = [(32, 32), (48, 64), (200, 31), (7, 90), (1, 1), (33, 32), (640, 480), (2, 3), (96, 96)]
    drawn = [draw(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    return [*drawn, np.full((40, 40, 3), 77, np.uint8)]
