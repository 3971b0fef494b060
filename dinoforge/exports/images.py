"""The eight images that an export is compared on: made ones, or the first of the user's."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.images import Undecodable, resize
from dinoforge.sources.image_set import open_images

__all__ = ["NUM_IMAGES", "made_images", "read_images"]

NUM_IMAGES = 8

_log = logging.getLogger(__name__)


def made_images() -> list[NDArray[np.uint8]]:
    """Make eight images ``[64, 64, 3]``: random colors at four scales, the same every time."""
    random = np.random.default_rng(0)
    images = []
    for number in range(NUM_IMAGES):
        side = 2 ** (3 + number % 4)
        images.append(resize(random.integers(0, 256, (side, side, 3), np.uint8), 64, 64))
    return images


def read_images(paths: Sequence[str]) -> list[NDArray[np.uint8]]:
    """Decode the first eight images behind some paths that can be decoded.

    Raises
    ------
    UsageError
        If there are fewer.
    """
    images: list[NDArray[np.uint8]] = []
    undecodable = 0
    with tempfile.TemporaryDirectory() as cache:
        listed = open_images(paths, cache=Path(cache))
        for index in range(len(listed)):
            try:
                images.append(listed.decode(index))
            except Undecodable:
                undecodable += 1
            if len(images) == NUM_IMAGES:
                break
    if undecodable:
        _log.warning("%d images do not decode: the next ones are compared", undecodable)
    if len(images) == NUM_IMAGES:
        return images
    raise UsageError(
        what=f"need at least {NUM_IMAGES} images that can be decoded, got {len(images)}",
        where=", ".join(paths),
        do="give more images, or leave out --images",
    )
