"""Small backbones with weights that are far from their initial values, stored on disk."""

import numpy as np
import pytest
import torch

from dinoforge.exports.source import open_source
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone

SIZES = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8, "image_size": 48, "init": "xavier"}
MODELS = {
    "offset": {},
    "registers": {"registers": 4, "positions": "size_antialias"},
    "gated": {"ffn": "swiglu", "layer_scale": 0.0, "bias": False, "positions": "size"},
    "antialias": {"registers": 1, "positions": "offset_antialias", "norm_eps": 1e-5},
    "rope": {"positions": "rope", "norm_eps": 1e-5},
    "rope_gated": {"positions": "rope", "registers": 4, "ffn": "swiglu", "bias": False},
}


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Return the file of a model of `MODELS`, or of another by its changes; not to be changed."""
    folder, files = tmp_path_factory.mktemp("stored"), {}

    def path_of(name="", **changes):
        changes = MODELS.get(name, {}) | changes
        key = str(sorted(changes.items()))
        if key not in files:
            model = build_vit(VitConfig(**SIZES | changes))
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            path = folder / f"{len(files)}.safetensors"
            notes = {"step": "7", "license": "Apache-2.0", "image_std": "[0.25, 0.3, 0.35]"}
            save_backbone(path, model, notes)
            files[key] = path
        return files[key]

    return path_of


@pytest.fixture(scope="session")
def source(stored):
    """Open a model of `MODELS`."""
    return lambda name="", **changes: open_source(stored(name, **changes))


@pytest.fixture(scope="session")
def images():
    """Make normalized images of a height and width."""
    return lambda height, width, count=2: torch.randn(
        count, 3, height, width, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(scope="session")
def tokens():
    """Return class token and patch tokens of our ViT."""

    def run(source, images):
        with torch.inference_mode():
            outputs = source.backbone.model.forward_features(images)
        return outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"]

    return run


@pytest.fixture(scope="session")
def pictures():
    """Pictures of several sizes, uint8."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (side, 60, 3), np.uint8) for side in (30, 48, 90)]
