"""Large images are shrunk once; what is cropped from them is the same for any cache."""

import numpy as np
import pytest

from dinoforge.training.data.decoded_cache import TrainingImages
from dinoforge.training.data.parts import DataConfig


class Photographs:
    """Images of given heights and widths, with a gradient to the right."""

    def __init__(self, *sizes):
        self.sizes = sizes
        self.table = "the table"

    def __len__(self):
        return len(self.sizes)

    def fetch(self, indices):
        """They are not in a bucket."""

    def decode(self, index, /):
        height, width = self.sizes[index]
        row = np.linspace(0, 255, width).astype(np.uint8)
        return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [((400, 600), (100, 150)), ((600, 400), (150, 100)), ((100, 900), (100, 900)), ((64, 80),) * 2],
)
def test_the_shorter_side_is_at_most_the_limit_and_the_shape_stays(size, shrunk):
    images = TrainingImages(Photographs(size), DataConfig(max_side=100))
    assert images.decode(0).shape[:2] == shrunk
    assert (len(images), images.table) == (1, "the table")


def test_a_shrunk_image_shows_the_same():
    photographs = Photographs((400, 600))
    large = photographs.decode(0)
    small = TrainingImages(photographs, DataConfig(max_side=100)).decode(0)
    np.testing.assert_allclose(small[50, ::15, 0], large[200, 2::60, 0], atol=2)
