"""Resize and encoding with Pillow's semantics."""

import io

import numpy as np
import pytest
from PIL import Image

from dinoforge.images.decode import decode
from dinoforge.images.resize import encode_jpeg, resize

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "box"])
@pytest.mark.parametrize("size", [(15, 10), (45, 33), (30, 20)])
def test_resize_is_pillows(name, size):
    width, height = size
    expected = Image.fromarray(PIXELS).resize(size, Image.Resampling[name.upper()])
    resized = resize(PIXELS, width, height, filter=name)
    assert resized.shape == (height, width, 3)
    np.testing.assert_array_equal(resized, np.asarray(expected))
    assert resize(PIXELS[:, :, 0], width, height).shape == (height, width)


def test_resize_gives_a_new_writable_array():
    same = resize(PIXELS, 30, 20)
    same[:] = 0
    assert PIXELS.any()


def test_encoded_jpegs_are_baseline_and_repeatable():
    data = encode_jpeg(PIXELS, 90)
    assert data == encode_jpeg(PIXELS, 90)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.info.get("progressive")) == ("JPEG", (30, 20), None)
    assert len(encode_jpeg(PIXELS, 20)) < len(data)
    assert decode(encode_jpeg(PIXELS[:, :, 0], 90)).shape == (20, 30, 3)
