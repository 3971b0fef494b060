"""Maps of single images: against the attention weights of the whole last block."""

import numpy as np
import pytest
import torch

from dinoforge.attention.maps import AttentionMaps, UnfitImage, fit_image
from dinoforge.images import resize


@pytest.mark.parametrize("name", ["plain", "registers", "rope"])
def test_maps_are_the_row_of_the_class_token_without_registers(source, picture, name):
    opened = source(name)
    image = picture(40, 72)
    mapped = AttentionMaps(opened, "cpu").of(image)
    pixels = (torch.from_numpy(image) / 255 - torch.tensor(opened.mean)) / torch.tensor(opened.std)
    with torch.inference_mode():
        weights = opened.backbone.model.last_attention(pixels.permute(2, 0, 1)[None])
    expected = weights[0, :, 0, 1 + opened.config.registers :].reshape(3, 5, 9)
    assert opened.mean == pytest.approx((0.4, 0.5, 0.6))
    assert mapped.attention.dtype == np.float32
    np.testing.assert_allclose(mapped.attention, expected.numpy(), rtol=1e-5, atol=1e-7)
    assert (mapped.attention.sum(axis=(1, 2)) < 1).all()
    assert np.ptp(mapped.attention, axis=(1, 2)).min() > 1e-4  # nothing to compare if uniform
    np.testing.assert_array_equal(mapped.image, image)


def test_the_shorter_side_is_resized_and_the_rest_cropped_to_patches(picture):
    image = picture(30, 50)
    resized = resize(image, 75, 45)
    np.testing.assert_array_equal(fit_image(image, 45, 8), resized[:40, :72])
    np.testing.assert_array_equal(fit_image(image, 0, 8), image[:24, :48])
    np.testing.assert_array_equal(fit_image(image, 30, 10), image)


@pytest.mark.parametrize(
    ("shape", "size", "reason"),
    [
        ((7, 40), 0, "7 x 40 pixels, smaller than a patch of 8 x 8"),
        ((32, 48), 4, "4 x 6 pixels after resizing, smaller than a patch of 8 x 8"),
        ((1, 5_000), 64, "64 x 320000 pixels after resizing, more than 65,536 patches"),
    ],
)
def test_a_size_without_a_map_is_reported(picture, shape, size, reason):
    with pytest.raises(UnfitImage, match=reason):
        fit_image(picture(*shape), size, 8)
