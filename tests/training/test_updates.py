"""Clipping: every sub-network by its own norm."""

import pytest
import torch
from torch import nn

from dinoforge.training.updates import clip_gradients


def network(*values):
    module = nn.ParameterDict({str(i): nn.Parameter(torch.zeros(1)) for i in range(len(values))})
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.grad = torch.tensor([value])
    return module


def gradient(module):
    return torch.cat([p.grad for p in module.parameters()]).tolist()


def test_each_sub_network_is_clipped_by_its_own_norm():
    backbone, head = network(0.3, 0.4), network(30.0, 40.0)
    norms = clip_gradients({"backbone": backbone, "dino_head": head}, 1.0)
    assert norms["backbone"].item() == pytest.approx(0.5)
    assert norms["dino_head"].item() == pytest.approx(50.0)
    assert gradient(backbone) == pytest.approx([0.3, 0.4])  # a common norm would shrink it
    assert gradient(head) == pytest.approx([0.6, 0.8], rel=1e-6)


def test_zero_measures_and_clips_nothing():
    head = network(30.0, 40.0)
    assert clip_gradients({"head": head}, 0.0)["head"].item() == pytest.approx(50.0)
    assert gradient(head) == [30.0, 40.0]


def test_what_is_not_finite_shows_in_the_norm():
    assert not torch.isfinite(clip_gradients({"head": network(1.0, float("nan"))}, 1.0)["head"])


def test_a_network_without_gradients_has_no_norm():
    assert clip_gradients({"head": nn.Linear(2, 2)}, 1.0) == {}
