"""Closed forms of the parameters against the networks that are built."""

import pytest

from dinoforge.config import find_recipe, load_config
from dinoforge.models import ARCHITECTURES, VitConfig
from dinoforge.training.build import build_method
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.parameters import backbone_units, count, largest_part, student_units
from dinoforge.training.plan.sharding import method_on_meta


def names_and_shapes(network):
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def of_network(units, network):
    """Names inside a network -> shapes, of all of its units."""
    found = {}
    for unit, shapes in units.items():
        if unit.partition(".")[0] == network:
            inside = unit.partition(".")[2]
            found |= {f"{inside}.{n}" if inside else n: shape for n, shape in shapes.items()}
    return found


def test_every_name_and_shape_is_that_of_the_built_networks(variant):
    units = student_units(variant)
    student = build_method(variant).student
    assert {unit.partition(".")[0] for unit in units} == set(student)
    for name, network in student.items():
        assert of_network(units, name) == names_and_shapes(network)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", ARCHITECTURES)
def test_released_sizes_equal_those_on_the_meta_device(size, bias):
    import torch

    from dinoforge.models import VisionTransformer

    vit = VitConfig.named(size, patch_size=16, bias=bias, registers=4)
    with torch.device("meta"):
        built = VisionTransformer(vit)
    assert of_network(backbone_units(vit), "backbone") == names_and_shapes(built)


@pytest.mark.parametrize(
    ("size", "released"),
    # Oquab et al. 2023: the weights as they can be downloaded, patch 14, grid of 518 pixels.
    [
        ("small", 22_056_576),
        ("base", 86_580_480),
        ("large", 304_368_640),
        ("giant", 1_136_480_768),
    ],
)
def test_released_backbones_have_the_released_numbers_of_parameters(size, released):
    units = backbone_units(VitConfig.named(size, image_size=518))
    assert sum(map(count, units.values())) == released


def test_the_giant_recipe_has_the_published_backbone_and_heads():
    config = load_config(TrainingConfig, find_recipe("training", "vitg14_long"))
    student = method_on_meta(config).student
    built = {n: sum(p.numel() for p in network.parameters()) for n, network in student.items()}
    # Positions of 224 pixels instead of 518: 257 instead of 1,370 tokens of width 1,536.
    assert built["backbone"] == 1_136_480_768 - (1370 - 257) * 1536
    units = student_units(config)
    counted = dict.fromkeys(built, 0)
    for unit, shapes in units.items():
        counted[unit.partition(".")[0]] += count(shapes)
    assert counted == built


@pytest.mark.parametrize("shards", [1, 2, 7, 64, 1000])
def test_parts_cover_a_parameter_and_the_first_is_the_largest(shards):
    import torch

    shapes = {"a": (130, 3), "b": (1, 5), "c": (64,)}
    parts = {n: torch.empty(shape).chunk(shards) for n, shape in shapes.items()}
    assert largest_part(shapes, shards) == sum(part[0].numel() for part in parts.values())
    assert shards * largest_part(shapes, shards) >= count(shapes)
