"""Names, shapes and counts of the released backbones, built without memory."""

import json

import pytest
import torch

from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer

pytestmark = pytest.mark.golden

MODELS = [f"vit{size}14{registers}" for size in "sblg" for registers in ("", "_reg4")]
SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


@pytest.fixture(scope="module")
def architectures(golden_file):
    return json.loads(golden_file("architectures.json").read_text())


def build(name):
    registers = 4 if name.endswith("_reg4") else 0
    with torch.device("meta"):
        return VisionTransformer(
            VitConfig.named(SIZES[name[3]], image_size=518, registers=registers)
        )


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_has_the_released_names_and_shapes_in_order(architectures, name):
    facts = architectures[name]
    result = [[key, list(tensor.shape)] for key, tensor in build(name).state_dict().items()]
    assert result == facts["params"]
    assert len(result) == facts["n_tensors"]


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(architectures, name):
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) == architectures[name]["total_params"]
    assert model.config.architecture == SIZES[name[3]]


def test_counts_without_the_reference_folder():
    # Oquab et al. 2023: 22 M, 86.6 M, 304 M, 1.14 B
    counts = [sum(p.numel() for p in build(f"vit{s}14").parameters()) for s in ("s", "b", "l", "g")]
    assert counts == [22_056_576, 86_580_480, 304_368_640, 1_136_480_768]
