"""Sizes of frames and nearest resampling."""

import numpy as np
import pytest
from PIL import Image

from dinoforge.evaluation.methods.grids import frame_size, resize_nearest


@pytest.mark.parametrize(
    ("size", "patch_size", "short", "expected"),
    [
        ((480, 854), 8, 480, (480, 832)),  # DINO on DAVIS
        ((480, 910), 16, 480, (480, 896)),
        ((854, 480), 16, 480, (832, 480)),
        ((480, 854), 14, 480, (476, 840)),
        ((240, 427), 14, 252, (252, 448)),
        ((300, 300), 14, 480, (476, 476)),
        ((480, 481), 16, 480, (480, 480)),
    ],
)
def test_the_size_of_a_frame_is_whole_patches(size, patch_size, short, expected):
    assert frame_size(*size, patch_size, short=short) == expected


def test_nearest_resampling_equals_pillow():
    rng = np.random.default_rng(0)
    for _ in range(300):
        labels = rng.integers(0, 256, rng.integers(1, 99, 2)).astype(np.uint8)
        rows, columns = rng.integers(1, 199, 2).tolist()
        image = Image.fromarray(labels).resize((columns, rows), Image.Resampling.NEAREST)
        assert (resize_nearest(labels, rows, columns) == np.asarray(image)).all()
