"""The published linear probe: its input, and its optimization by SGD."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.evaluation.methods.linear_grid import (
    Head,
    LinearHeads,
    Slots,
    cached,
    stack_slots,
    train_heads,
)
from dinoforge.evaluation.settings import LinearConfig
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


def input_of_head(layers, blocks, average):
    slots = stack_slots(layers)
    columns = Slots(len(layers), True, slots.shape[2]).columns(Head(0.1, blocks, average))
    return slots.flatten(1)[:, columns]


@pytest.mark.parametrize(("blocks", "average"), CASES)
def test_input_from_a_backbone(shared, layers, blocks, average):
    truth = load_file(shared / "golden" / "linear_eval.safetensors")
    torch.testing.assert_close(
        input_of_head(layers, blocks, average),
        truth[f"linear_input/n{blocks}_avgpool{average}"],
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.parametrize(("blocks", "average"), CASES)
def test_input_from_plain_arrays(shared, blocks, average):
    golden = load_file(shared / "golden-eval" / "probes.safetensors")
    layers = list(zip(golden["probe_patch"], golden["probe_cls"], strict=True))
    result = input_of_head(layers, blocks, average)
    truth = golden[f"probe_input_n{blocks}_avg{int(average)}"]
    torch.testing.assert_close(result, truth, rtol=0, atol=1e-6)


def test_sgd_of_three_rates_on_the_stored_batches(golden_eval):
    facts, arrays = golden_eval("probes")
    settings, x = facts["sgd"], torch.from_numpy(arrays["X"])[:, None]
    config = LinearConfig(
        rates=settings["lrs"],
        blocks=[1],
        average_patches=[False],
        epochs=1,
        epoch_steps=settings["iters"],
        batch_size=settings["batch"],
        momentum=settings["momentum"],
    )
    heads = LinearHeads(config, Slots(1, False, x.shape[2]), 5, seed=0, like=x)
    for number in range(3):
        heads.set_weights(number, torch.from_numpy(arrays["sgd_W0"]))
    batches = iter(arrays["sgd_batches"])
    assert list(train_heads(cached(x), arrays["y"], heads, config=config, batches=batches)) == [1]
    right = heads.predict(torch.from_numpy(arrays["X_test"])[:, None]).numpy() == arrays["y_test"]
    for number, rate in enumerate(settings["lrs"]):
        result = heads.probe(number)
        for name, tensor in (("W", result.weights), ("b", result.bias)):
            # Float64 throughout: the orders of summation differ.
            truth = torch.from_numpy(arrays[f"sgd_{name}_lr{rate}"])
            torch.testing.assert_close(tensor, truth, rtol=0, atol=1e-14)
        assert 100 * right[number].mean() == pytest.approx(settings["test_top1"][str(rate)])
