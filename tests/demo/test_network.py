"""The network of the demo: one size rule, features and attention of a ViT, plain encoders."""

import numpy as np
import pytest

from dinoforge.demo.network import encoder_spec, open_network, patch_grid
from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    config = VitConfig(width=32, depth=2, heads=2, patch_size=8, image_size=32, init="xavier")
    save_backbone(path, build_vit(config, seed=0), {"step": "40"})
    return path


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(518, 518, (37, 37)), (240, 427, (28, 49)), (1, 100_000, (1, 1369)), (30, 30, (37, 37))],
)
def test_every_aspect_costs_as_much_as_a_square(height, width, grid):
    assert patch_grid(height, width, 518, 14) == grid
    assert grid[0] * grid[1] <= 1.02 * 37**2


def test_features_and_attention_are_those_of_the_network(file):
    network = open_network(str(file))
    assert (network.dim, network.patch_size, network.num_heads) == (32, 8, 2)
    assert network.trained
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    features = network.features(image, 48)
    assert features.patches_XYD.shape == (5, 7, 32)
    assert np.linalg.norm(features.global_D) == pytest.approx(1, abs=1e-6)
    tokens = network.encoder.encode_patches(network.fit(image, 48), {"patches-1", "attention"})
    np.testing.assert_allclose(
        features.patches_XYD.reshape(-1, 32), tokens["patches-1"], atol=2e-3, rtol=1e-3
    )
    maps = network.attention(image, 48)
    np.testing.assert_array_equal(maps.reshape(2, -1), tokens["attention"].T)
    # A batch of several shapes, in order.
    others = [network.fit(picture, 48) for picture in (image, image[:, :20], image)]
    first, other, last = network.patches_of(others)
    np.testing.assert_array_equal(first, last)
    assert other.shape[0] > other.shape[1]


def test_an_encoder_without_patches_has_vectors_alone(tmp_path):
    network = open_network("pixels")
    image = np.full((9, 9, 3), 50, np.uint8)
    image[:4] = 200
    features = network.features(image, 224)
    assert (network.patch_size, network.num_heads, features.patches_XYD.size) == (0, 0, 0)
    assert len(features.global_D) == network.dim
    for ask in (network.patches, network.attention):
        with pytest.raises(UsageError, match="without patches"):
            ask(image, 224)
    assert encoder_spec(str(tmp_path)) == f"hf:{tmp_path}"
