"""Schedules of the published recipes, every stored step.

The reference's tolerance is 1e-14 relative. Where a cosine has nearly reached its small final
value, one rounding of ``1 + cos`` (1e-16 of the base value) is more than that, in the reference
itself too; so the tolerance is 1e-14 of the value or 2e-16 of the base, whichever is larger.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from dinoforge.training.schedules import Cosine, scaled_lr

pytestmark = pytest.mark.golden

TAGS = (
    "vitl16_short_E1250",
    "vitl14_E1250",
    "vitg14_E1250",
    "short_small",
    "giant_small",
    "no_warmup_small",
)


def schedules(recipe):
    optim, teacher = recipe["optim"], recipe["teacher"]
    epoch, total = recipe["official_epoch_length"], recipe["total_iterations"]
    lr = scaled_lr(optim["base_lr"], recipe["batch_size_per_gpu"] * recipe["world_size"])
    warmup, frozen = optim["warmup_epochs"] * epoch, optim["freeze_last_layer_epochs"] * epoch
    temperature_warmup = teacher["warmup_teacher_temp_epochs"] * epoch
    momentum = teacher["momentum_teacher"], teacher["final_momentum_teacher"]
    return {
        "lr": Cosine(lr, optim["min_lr"], total, warmup),
        "last_layer_lr": Cosine(lr, optim["min_lr"], total, warmup, frozen=frozen),
        "wd": Cosine(optim["weight_decay"], optim["weight_decay_end"], total),
        "momentum": Cosine(*momentum, total),
        "teacher_temp": Cosine(
            *[teacher["teacher_temp"]] * 2,
            total,
            temperature_warmup,
            start=teacher["warmup_teacher_temp"],
        ),
    }


@pytest.fixture(scope="module")
def golden(golden_file):
    facts = json.loads(golden_file("schedules.json").read_text())
    return facts, load_file(golden_file("schedules.safetensors"))


@pytest.mark.parametrize("tag", TAGS)
def test_every_stored_step(golden, tag):
    facts, arrays = golden
    steps = arrays[f"{tag}/iteration"]
    for name, schedule in schedules(facts[tag]).items():
        truth = arrays[f"{tag}/{name}"]
        result = np.array([schedule(int(step)) for step in steps])
        tolerance = np.maximum(1e-14 * np.abs(truth), 2e-16 * np.abs(truth).max())
        assert np.all(np.abs(result - truth) <= tolerance), name


@pytest.mark.parametrize("tag", TAGS)
def test_ends_and_after_the_end(golden, tag):
    recipe = golden[0][tag]
    order = ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr")
    total = recipe["total_iterations"]
    actual = schedules(recipe)
    for key, step in (("first", 0), ("last", total - 1), ("after_end", total + 7)):
        result = [actual[name](step) for name in order]
        np.testing.assert_allclose(result, recipe["values_at"][key], rtol=1e-12, atol=0)


@pytest.mark.parametrize("tag", TAGS)
def test_square_root_rule_of_the_learning_rate(golden, tag):
    recipe = golden[0][tag]
    batch = recipe["batch_size_per_gpu"] * recipe["world_size"]
    assert scaled_lr(recipe["optim"]["base_lr"], batch) == pytest.approx(
        recipe["optim"]["lr"], rel=1e-14
    )
