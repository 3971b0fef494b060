"""Small ViTs on disk, and a photograph of noise that is not square."""

import numpy as np
import pytest
import torch

from dinoforge.exports.source import open_source
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone

SIZES = {"width": 24, "depth": 2, "heads": 3, "patch_size": 8, "image_size": 32}
MODELS = {
    "plain": {},
    "registers": {"registers": 4, "positions": "size_antialias"},
    "rope": {"positions": "rope", "registers": 2},
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Files of `MODELS`, whose weights are far from their initial values; not to be changed."""
    folder, files = tmp_path_factory.mktemp("checkpoints"), {}
    for name, changes in MODELS.items():
        model = build_vit(VitConfig(**SIZES | changes))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        files[name] = folder / f"{name}.safetensors"
        save_backbone(files[name], model, {"image_mean": "[0.4, 0.5, 0.6]"})
    return files


@pytest.fixture(scope="session")
def source(checkpoints):
    """Open a model of `MODELS`."""
    return lambda name: open_source(checkpoints[name])


@pytest.fixture(scope="session")
def picture():
    """An image of a height and width, uint8."""
    return lambda height, width, seed=0: np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), np.uint8
    )
