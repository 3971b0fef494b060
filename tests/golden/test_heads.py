"""Projection heads: scores and gradients of the published module, shapes of the recipes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.training.heads import ProjectionHead
from dinoforge.training.parameter_groups import parameter_rule

pytestmark = pytest.mark.golden

HEADS = ("head1", "head2", "head3")
SCORES = {torch.float64: 1e-12, torch.float32: 2e-6}
GRADIENTS = {torch.float64: 1e-11, torch.float32: 2e-5}


@pytest.fixture(scope="module", params=HEADS)
def stored(request, golden_file):
    facts = json.loads(golden_file("head_loss.json").read_text())[f"head/{request.param}"]
    return facts, load_file(golden_file(f"head/{request.param}.safetensors"))


def build(facts, tensors, dtype):
    head = ProjectionHead(
        facts["in_dim"],
        hidden=facts["hidden_dim"],
        bottleneck=facts["bottleneck_dim"],
        prototypes=facts["out_dim"],
        layers=facts["nlayers"],
    )
    weights = {n.removeprefix("param/"): t for n, t in tensors.items() if n.startswith("param/")}
    head.load_state_dict(weights)
    return head.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", ["g1", "grand"])
def test_scores_and_every_gradient(stored, case, dtype):
    facts, tensors = stored
    head = build(facts, tensors, dtype)
    weight_g = tensors.get(f"{case}/weight_g", torch.ones(facts["out_dim"], 1))
    head.last_layer.weight_g.data.copy_(weight_g)
    x = tensors["x"].to(dtype, copy=True).requires_grad_()
    out = head(x)
    (out * tensors["cotangent"].to(dtype)).sum().backward()
    assert (out.double() - tensors[f"{case}/out"]).abs().max() <= SCORES[dtype]
    result = {f"{case}/grad/{name}": p.grad for name, p in head.named_parameters()}
    result[f"{case}/grad_x"] = x.grad
    assert result.keys() == {n for n in tensors if n.startswith(f"{case}/grad")}
    for name, gradient in result.items():
        assert (gradient.double() - tensors[name]).abs().max() <= GRADIENTS[dtype], name


def recipe_heads(golden_file):
    return json.loads(golden_file("dino_head_shapes.json").read_text())


def test_heads_of_the_recipes_have_the_published_parameters(golden_file):
    for name, facts in recipe_heads(golden_file).items():
        with torch.device("meta"):
            head = ProjectionHead(
                facts["in_dim"],
                hidden=facts["hidden"],
                bottleneck=facts["bottleneck"],
                prototypes=facts["out_dim"],
            )
        result = [[n, list(p.shape), p.requires_grad] for n, p in head.named_parameters()]
        assert result == facts["params"], name
        assert sum(p.numel() for p in head.parameters()) == facts["total"], name


def test_prototypes_are_the_only_last_layer(golden_file):
    names = [p[0] for p in next(iter(recipe_heads(golden_file).values()))["params"]]
    settings = {"depth": 12, "layerwise_decay": 0.9, "patch_embed_lr": 0.2}
    last = [name for name in names if parameter_rule(name, **settings).is_last_layer]
    assert last == ["last_layer.weight_g", "last_layer.weight_v"]
