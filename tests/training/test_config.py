"""Recipes of a training: what is refused, in how many words, and what follows from the length."""

import pytest

from dinoforge.errors import UsageError
from dinoforge.training.schedules import scheduled_values


def test_phases_are_shares_of_the_run_where_the_recipe_does_not_give_steps(tiny):
    config = tiny("steps=125000")
    result = (config.warmup, config.temperature_warmup, config.freeze_last_layer)
    assert result == (12500, 37500, 1250)  # the published ones


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 400])
def test_a_run_of_any_length_leaves_its_phases(tiny, steps):
    config = tiny(f"steps={steps}")
    values = [scheduled_values(config, step) for step in range(steps)]
    assert values[-1]["schedule/last_layer_lr"] > 0
    assert values[-1]["schedule/teacher_temperature"] == 0.07
    assert max(of["schedule/lr"] for of in values) == pytest.approx(0.02 * (4 / 1024) ** 0.5)


def test_given_steps_are_taken_as_given(tiny):
    config = tiny(
        "optimizer.warmup=0", "optimizer.freeze_last_layer=5", "teacher.temperature_warmup=6"
    )
    assert (config.warmup, config.freeze_last_layer, config.temperature_warmup) == (0, 5, 6)


@pytest.mark.parametrize(
    ("key", "value", "longest"),
    [
        ("optimizer.warmup", 7, 6),
        ("teacher.temperature_warmup", 37500, 6),
        ("optimizer.freeze_last_layer", 6, 5),
        ("optimizer.warmup", -1, 6),
    ],
)
def test_a_phase_longer_than_the_run_is_refused_in_one_line(tiny, key, value, longest):
    with pytest.raises(UsageError) as caught:
        tiny(f"{key}={value}")
    (line,) = str(caught.value).splitlines()
    assert f"`{key}` {value} does not fit a run of 6 steps" in line
    assert f"give 0 to {longest}, or {key}=null" in line


@pytest.mark.parametrize(
    ("parts", "reported"),
    [
        ("{name: a, paths: [x], weight: 0}", "`data.parts` has no weight above 0"),
        ("{name: a, paths: [x], weight: -1}", "`data.parts[0].weight` is -1.0 - "),
        ("{name: a, paths: []}", "`data.parts[0].paths` is empty - "),
        ("{paths: [x]}", "`data.parts[0].name` is '' - "),
        ("{name: a, paths: [x]}, {name: a, paths: [y]}", "`data.parts` has 2 parts named a - "),
        ("{name: a, paths: [x], batches: any}", "need homogeneous | heterogeneous"),
    ],
)
def test_a_mixture_that_cannot_be_sampled_is_refused_in_one_line(tiny, parts, reported):
    with pytest.raises(UsageError) as caught:
        tiny("data.paths=[]", f"data.parts=[{parts}]")
    (line,) = str(caught.value).splitlines()
    assert reported in line


def test_images_are_given_as_paths_or_as_parts(tiny):
    with pytest.raises(UsageError, match=r"`data\.parts` and `data\.paths` are both given"):
        tiny("data.parts=[{name: a, paths: [x]}]")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("data.max_bad_share=1.5", "data.max_bad_share"),
        ("data.num_workers=-1", "data.num_workers"),
        ("data.paths=[]", "data.paths"),
        ("model.drop_path=1.0", "model.drop_path"),
        ("model.heads=3", "model.width"),
        ("model.registers=-1", "model.registers"),
        ("crops.local_size=15", "crops.local_size"),
        ("crops.global_size=30", "crops.global_size"),
        ("crops.blur_kernel=4", "crops.blur_kernel"),
        ("crops.local_scale=[0.5,0.1]", "crops.local_scale"),
        ("masks.image_prob=2", "masks.image_prob"),
        ("masks.ratio=[0.5,0.1]", "masks.ratio"),
        ("dino_head.layers=0", "dino_head.layers"),
        ("loss.koleo=-0.1", "loss.koleo"),
        ("teacher.temperature_start=0.1", "teacher.temperature_start"),
        ("teacher.momentum_start=1.5", "teacher.momentum_start"),
        ("optimizer.lr=0", "optimizer.lr"),
        ("optimizer.clip=-1", "optimizer.clip"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas"),
        ("optimizer.layerwise_decay=0", "optimizer.layerwise_decay"),
        ("checkpoint.every=0", "checkpoint.every"),
        ("steps=0", "steps"),
        ("batch_size=0", "batch_size"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(tiny, change, key):
    with pytest.raises(UsageError) as caught:
        tiny(change)
    assert any(f"`{key}`" in line for line in str(caught.value).splitlines())
