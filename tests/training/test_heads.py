"""Heads: unit bottlenecks, initial weights."""

import pytest
import torch

from dinoforge.training.heads import ProjectionHead


def make(**init):
    head = ProjectionHead(384, hidden=512, bottleneck=64, prototypes=128)
    head.init_weights(0, **init)
    return head


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_bottleneck_is_a_unit_vector_however_small_its_input(scale):
    head = ProjectionHead(16, hidden=16, bottleneck=16, prototypes=4, layers=1)
    with torch.no_grad():
        head.mlp.weight.copy_(torch.eye(16))
        head.mlp.bias.zero_()
    x = scale * torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    norms = head.bottleneck(x).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(5), rtol=0, atol=1e-6)


def test_a_zero_row_has_scores_of_zero_and_a_finite_gradient():
    head = ProjectionHead(16, hidden=16, bottleneck=8, prototypes=4)
    head.init_weights(0)
    x = torch.zeros(1, 16, requires_grad=True)
    scores = head(x)
    scores.sum().backward()
    assert not scores.any()
    assert torch.isfinite(x.grad).all()


def test_scores_are_cosines_at_the_start():
    assert make()(torch.randn(50, 384)).abs().max() <= 1 + 1e-6


def test_initial_weights_are_those_of_the_published_code():
    head = make()
    assert head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not any(head.mlp[i].bias.any() for i in (0, 2, 4))
    assert torch.all(head.last_layer.weight_g == 1)
    assert head.last_layer.weight_g.requires_grad
    assert head.last_layer.weight_v.abs().max() <= 64**-0.5


def test_narrow_networks_start_wider_with_xavier():
    bound = (6 / (384 + 512)) ** 0.5
    weight = make(xavier=True).mlp[0].weight
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
