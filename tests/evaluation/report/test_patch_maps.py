"""What a backbone sees: one color and one attention a patch, where the patch is."""

from itertools import combinations

import numpy as np
import pytest

from dinoforge.evaluation.report.maps import color_patches, find_backbones, map_patches, square
from dinoforge.images import decode


@pytest.fixture(scope="module")
def backbones(project):
    return find_backbones(project["training"])


@pytest.fixture(scope="module")
def images(photographs):
    return [decode(data) for data in photographs[:4]]


def test_the_first_and_the_last_export_of_a_run_are_found(backbones, tmp_path):
    assert {name: path.parent.name for name, path in backbones.items()} == {
        "untrained": "step-000000000",
        "trained": "step-000001500",
    }
    assert find_backbones(tmp_path) == {}


def test_maps_have_one_value_a_patch(backbones, images):
    maps = map_patches(backbones["trained"], images, side=64)
    assert maps.colors.shape == (4, 8, 8, 3)
    assert maps.attention.shape == (4, 8, 8)
    assert maps.heads.shape == (4, 3, 8, 8)
    assert {int(image.min()) for image in maps.attention} == {0}
    assert {int(image.max()) for image in maps.attention} == {255}
    assert 0 < sum(maps.explained) <= 1


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
def test_attention_is_that_of_the_class_token_on_patches(backbones, images, mean, tmp_path):
    """Against the model itself, asked for one image alone, normalized as its file requires."""
    import torch

    from dinoforge.models.weights import load_backbone, save_backbone

    model, _, _ = load_backbone(backbones["trained"])
    path = tmp_path / "model.safetensors"
    save_backbone(path, model, {"image_mean": str(list(mean)), "image_std": "[0.2, 0.2, 0.3]"})
    pixels = torch.from_numpy(square(images[0], 64).astype(np.float32) / 255)
    pixels = ((pixels - torch.tensor(mean)) / torch.tensor([0.2, 0.2, 0.3])).permute(2, 0, 1)
    with torch.inference_mode():
        weights = model.last_attention(pixels[None])[0, :, 0]
    patches = weights[:, -64:].mean(dim=0).reshape(8, 8).double().numpy()
    expected = (patches - patches.min()) / (patches.max() - patches.min()) * 255
    result = map_patches(path, images, side=64).attention[0]
    assert np.abs(result - expected).max() <= 1


def test_tokens_along_one_direction_differ_in_one_color_only():
    place = np.linspace(-1, 1, 60)
    tokens = np.zeros((2, 30, 8))
    tokens[..., 3] = place.reshape(2, 30)
    colors, explained = color_patches(tokens[:, None])
    assert explained == (1.0, 0.0, 0.0)
    first = colors[..., 0].ravel().astype(int)
    # The sign is set: the largest entry of the component is positive.
    assert (np.diff(first) >= 0).all()
    assert (first[0], first[-1]) == (0, 255)


def test_like_tokens_have_like_colors_in_all_images_together():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(4, 16))
    which = rng.integers(0, 4, (2, 40))
    tokens = kinds[which] + rng.normal(0, 0.01, (2, 40, 16))
    colors = color_patches(tokens[:, None])[0][:, 0]
    means = np.stack([colors[which == kind].mean(axis=0) for kind in range(4)])
    assert max(colors[which == kind].std(axis=0).max() for kind in range(4)) < 20
    gaps = [np.abs(means[a] - means[b]).max() for a, b in combinations(range(4), 2)]
    assert min(gaps) > 60


def test_tokens_that_are_all_alike_have_one_color():
    colors, explained = color_patches(np.ones((1, 3, 3, 4)))
    assert (colors == colors[0, 0, 0]).all()
    assert explained == (0.0, 0.0, 0.0)


def test_the_middle_square_of_an_image_is_shown():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    assert (square(image, 10) == 200).all()
    assert (square(image.transpose(1, 0, 2), 10) == 200).all()
