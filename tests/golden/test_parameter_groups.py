"""Multipliers of learning rate and weight decay of every parameter of the published recipes."""

import json

import pytest
import torch

from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.parameter_groups import clean_name, parameter_rule

pytestmark = pytest.mark.golden

DEPTHS = {"vitl": 24, "vitg": 40, "vits": 12, "dino": 12}


@pytest.fixture(scope="module")
def golden(golden_file):
    facts = json.loads(golden_file("param_groups.json").read_text())
    settings = facts.pop("_settings")
    facts.pop("_columns")
    return facts, settings


def rules_of(names, network, settings):
    return [
        parameter_rule(
            name,
            depth=DEPTHS[network[:4]],
            layerwise_decay=settings["layerwise_decay"],
            patch_embed_lr=settings["patch_embed_lr_mult"],
        )
        for name in names
    ]


def test_every_parameter_has_the_published_multipliers(golden):
    facts, settings = golden
    assert len(facts) == 8
    for network, rows in facts.items():
        rules = rules_of([row[0] for row in rows], network, settings)
        for (name, lr, decay, is_last), rule in zip(rows, rules, strict=True):
            assert rule.lr_multiplier == pytest.approx(lr, rel=1e-14), (network, name)
            result = (rule.weight_decay_multiplier, rule.is_last_layer)
            assert result == (decay, is_last), (network, name)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_what_wrappers_add_to_a_name_changes_nothing(golden, wrapper):
    facts, settings = golden
    for network, rows in facts.items():
        wrapped = [row[0].replace("blocks.", f"blocks.{wrapper}", 1) for row in rows]
        plain = rules_of([row[0] for row in rows], network, settings)
        assert rules_of(wrapped, network, settings) == plain
        assert [clean_name(name) for name in wrapped] == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("vitl14_train_chunks0", VitConfig.named("large", ffn="swiglu")),
        ("vitg14_train_chunks0", VitConfig.named("giant")),
        ("vitl16_short_chunks0", VitConfig.named("large", patch_size=16)),
    ],
)
def test_our_models_have_exactly_these_parameters(golden, network, config):
    with torch.device("meta"):
        model = VisionTransformer(config)
    assert [name for name, _ in model.named_parameters()] == [row[0] for row in golden[0][network]]
