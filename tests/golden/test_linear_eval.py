"""The input of the published linear probe, from a backbone and from plain arrays."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.evaluation.features import linear_input
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer

pytestmark = pytest.mark.golden

CASES = [(1, False), (1, True), (4, False), (4, True)]


@pytest.fixture(scope="module")
def layers(shared: Path):
    """The last four blocks of the golden ViT with registers, float64."""
    folder = shared / "golden" / "backbone"
    config = json.loads((folder / "backbone.json").read_text())["vit_reg4"]["config"]
    tensors = load_file(folder / "vit_reg4.safetensors")
    model = VisionTransformer(
        VitConfig(
            width=config["embed_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
            patch_size=config["patch_size"],
            registers=config["num_register_tokens"],
            layer_scale=1.0,
            image_size=config["img_size"],
            positions="size_antialias",
        )
    )
    named = {n.removeprefix("param/"): t for n, t in tensors.items() if n.startswith("param/")}
    model.load_state_dict(named)
    with torch.inference_mode():
        return (
            model.double().eval().get_intermediate_layers(tensors["native/x_q8"].double() / 32, 4)
        )


@pytest.mark.parametrize(("blocks", "average"), CASES)
def test_input_from_a_backbone(shared, layers, blocks, average):
    truth = load_file(shared / "golden" / "linear_eval.safetensors")
    result = linear_input(layers, blocks=blocks, average_patches=average)
    torch.testing.assert_close(
        result, truth[f"linear_input/n{blocks}_avgpool{average}"], rtol=0, atol=1e-11
    )


@pytest.mark.parametrize(("blocks", "average"), CASES)
def test_input_from_plain_arrays(shared, blocks, average):
    golden = load_file(shared / "golden-eval" / "probes.safetensors")
    layers = list(zip(golden["probe_patch"], golden["probe_cls"], strict=True))
    result = linear_input(layers, blocks=blocks, average_patches=average)
    truth = golden[f"probe_input_n{blocks}_avg{int(average)}"]
    torch.testing.assert_close(result, truth, rtol=0, atol=1e-6)
