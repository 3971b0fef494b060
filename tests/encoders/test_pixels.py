"""The pixel descriptor: blind to mirrors, near for edited copies, far for other pictures."""

import numpy as np
import pytest

from dinoforge.encoders.make import make_encoder
from dinoforge.images.decode import decode
from dinoforge.images.resize import encode_jpeg, resize

# The first numbers of two drawn pictures, as the first release gives them: vectors that people
# stored stay comparable. 1e-4: float32 sums of another order (BLAS, processor) and Pillow's resize.
KEPT = {
    (32, 32, 0): [-0.032606, 0.162217, 0.020166, -0.002346, 0.03998, -0.216498],
    (90, 120, 3): [0.007814, 0.049637, -0.023985, 0.035112, -0.059672, 0.031009],
}


@pytest.fixture(scope="module")
def pixels():
    return make_encoder("pixels")


def cosine(encoder, a, b):
    one, other = encoder.encode([a, b]).astype(np.float64)
    return float(one @ other)


@pytest.mark.parametrize(("height", "width", "seed"), KEPT)
def test_vectors_are_those_of_the_first_release(pixels, picture, height, width, seed):
    (row,) = pixels.encode([picture(height, width, seed)])
    np.testing.assert_allclose(row[:6], KEPT[height, width, seed], rtol=0, atol=1e-4)
    assert pixels.dim == 128


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 75), (20, 31), (481, 640)])
def test_a_mirrored_picture_has_the_same_vector_to_the_last_bit(pixels, picture, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    for image in (picture(*size, 1), noise):
        one, other = pixels.encode([image, image[:, ::-1]])
        assert np.array_equal(one, other)
        assert one.any()


def test_a_picture_turned_upside_down_is_another_one(pixels, picture):
    assert cosine(pixels, picture(64, 64, 2), picture(64, 64, 2)[::-1]) < 0.9


@pytest.mark.parametrize("name", ["jpeg", "half", "brighter"])
def test_an_edited_copy_is_near_and_other_pictures_are_not(pixels, picture, name):
    image = picture(96, 128, 4)
    edited = {
        "jpeg": decode(encode_jpeg(image, 60)),
        "half": resize(image, 64, 48),
        "brighter": np.minimum(image.astype(int) * 115 // 100, 255).astype(np.uint8),
    }[name]
    assert cosine(pixels, image, edited) > 0.95
    others = [cosine(pixels, image, picture(96, 128, seed)) for seed in (0, 1, 2, 6, 7, 8)]
    assert max(others) < 0.9


@pytest.mark.parametrize("color", [(0, 0, 0), (77, 77, 77), (255, 3, 9)])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (50, 9)])
def test_a_picture_of_one_color_shows_nothing(pixels, color, size):
    flat = np.full((*size, 3), color, np.uint8)
    assert not pixels.encode([flat]).any()


def test_one_other_pixel_is_something_to_see(pixels):
    image = np.full((32, 32, 3), 100, np.uint8)
    image[16, 16] = 104
    assert np.linalg.norm(pixels.encode([image])) == pytest.approx(1, abs=1e-6)


def test_raw_pixels_are_the_values_of_the_picture(picture):
    image = picture(32, 32, 0)
    raw, centered = (
        make_encoder(name).encode([image])[0] for name in ("pixels_raw", "pixels_centered")
    )
    np.testing.assert_array_equal(raw, image.reshape(-1) / np.float32(255))
    wanted = image.reshape(-1) / 255 - (image / 255).mean()
    np.testing.assert_allclose(centered, wanted / np.linalg.norm(wanted), rtol=0, atol=1e-6)
    gray = np.full((9, 9, 3), 100, np.uint8)
    assert not make_encoder("pixels_centered").encode([gray]).any()
