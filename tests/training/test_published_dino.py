"""Every option of DINO v1's script: a key with the same default, or left out for a reason."""

from dataclasses import asdict, replace

import pytest

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.training.config import TrainingConfig
from dinoforge.training.schedules import scaled_lr

EPOCH = 2502  # steps: 1,281,167 images, 512 in a step on 8 GPUs; the last ones are dropped

# All options of main_dino.py and their defaults.
OPTIONS = {
    "arch": "vit_small",
    "patch_size": 16,
    "out_dim": 65536,
    "norm_last_layer": True,
    "momentum_teacher": 0.996,
    "use_bn_in_head": False,
    "warmup_teacher_temp": 0.04,
    "teacher_temp": 0.04,
    "warmup_teacher_temp_epochs": 0,
    "use_fp16": True,
    "weight_decay": 0.04,
    "weight_decay_end": 0.4,
    "clip_grad": 3.0,
    "batch_size_per_gpu": 64,
    "epochs": 100,
    "freeze_last_layer": 1,
    "lr": 0.0005,
    "warmup_epochs": 10,
    "min_lr": 1e-6,
    "optimizer": "adamw",
    "drop_path_rate": 0.1,
    "global_crops_scale": (0.4, 1.0),
    "local_crops_number": 8,
    "local_crops_scale": (0.05, 0.4),
    "data_path": "/path/to/imagenet/train/",
    "output_dir": ".",
    "saveckp_freq": 20,
    "seed": 0,
    "num_workers": 10,
    "dist_url": "env://",
    "local_rank": 0,
}


def steps(epochs):
    return epochs * EPOCH


# Option: the recipe's key and its value there, if that is not the default.
KEYS = {
    "arch": ("model.architecture", lambda name: name.removeprefix("vit_")),
    "patch_size": ("model.patch_size",),
    "out_dim": ("dino_head.prototypes",),
    "norm_last_layer": ("dino_head.norm_last_layer",),
    "momentum_teacher": ("teacher.momentum_start",),
    "use_bn_in_head": ("dino_head.normalized",),
    "optimizer": ("optimizer.name",),
    "warmup_teacher_temp": ("teacher.temperature_start",),
    "teacher_temp": ("teacher.temperature",),
    "warmup_teacher_temp_epochs": ("teacher.temperature_warmup", steps),
    "weight_decay": ("optimizer.weight_decay_start",),
    "weight_decay_end": ("optimizer.weight_decay_end",),
    "clip_grad": ("optimizer.clip",),
    "batch_size_per_gpu": ("batch_size", lambda images: images * 8),
    "epochs": ("steps", steps),
    "freeze_last_layer": ("optimizer.freeze_last_layer", steps),
    "lr": ("optimizer.lr",),
    "warmup_epochs": ("optimizer.warmup", steps),
    "min_lr": ("optimizer.lr_end",),
    "drop_path_rate": ("model.drop_path",),
    "global_crops_scale": ("crops.global_scale",),
    "local_crops_number": ("crops.num_local",),
    "local_crops_scale": ("crops.local_scale",),
    "saveckp_freq": ("checkpoint.export_every", steps),
    "seed": ("seed",),
    "data_path": ("data.paths", lambda _: ["data/imagenet1k/train"]),
    "output_dir": ("out", lambda _: "runs/dino_vits16_100ep"),
    "num_workers": ("data.num_workers",),
}
LEFT_OUT = {
    "use_fp16": "precision: bfloat16 needs no loss scaling",
    "dist_url": "ranks find each other by --on, SLURM or torchrun",
    "local_rank": "likewise",
}


@pytest.fixture(scope="module")
def recipe():
    return load_config(TrainingConfig, find_recipe("training", "dino_vits16_100ep"))


@pytest.mark.parametrize("option", KEYS)
def test_a_default_of_the_script_is_that_of_the_recipe(recipe, option):
    key, *rule = KEYS[option]
    wanted = OPTIONS[option]
    for convert in rule:
        wanted = convert(wanted)
    result = asdict(recipe)
    for part in key.split("."):
        result = result[part]
    assert result == wanted


def test_every_option_is_kept_or_left_out_for_a_reason():
    assert KEYS.keys() | LEFT_OUT.keys() == OPTIONS.keys()
    assert not KEYS.keys() & LEFT_OUT.keys()
    assert all(LEFT_OUT.values())


def test_what_the_script_does_without_an_option(recipe):
    assert recipe.method == "dino"
    assert (recipe.loss.ibot, recipe.loss.koleo, recipe.teacher.balance) == (0, 0, "centering")
    assert scaled_lr(recipe.optimizer.lr, 512, recipe.optimizer.lr_rule) == pytest.approx(0.001)
    assert (recipe.optimizer.clip_by, recipe.optimizer.freeze_by) == ("tensor", "gradient")
    assert recipe.teacher.temperature_hold == EPOCH
    assert (recipe.model.layer_scale, recipe.model.drop_path_rule) == (0, "sample")
    assert (recipe.optimizer.layerwise_decay, recipe.optimizer.patch_embed_lr) == (1.0, 1.0)
    assert (recipe.crops.blur_filter, recipe.crops.blur_probs()) == ("pillow", (1.0, 0.1, 0.5))
    assert recipe.model.init == "dino"


@pytest.mark.parametrize(
    "name",
    [
        *("dino_vits16", "dino_vits8", "dino_vitb16", "dino_vitb8", "dino_vits16_100ep"),
        *("dino_resnet50", "dino_resnet50_100ep", "dino_xcit_small_12_p16"),
    ],
)
def test_recipes_differ_in_published_arguments_alone(recipe, name):
    """Phases are whole epochs, and what no option of the script changes is equal in all recipes."""
    other = load_config(TrainingConfig, find_recipe("training", name))
    epoch = other.teacher.temperature_hold
    assert epoch == 1_281_167 // other.batch_size
    for steps in (other.steps, other.warmup, other.temperature_warmup, other.freeze_last_layer):
        assert steps % epoch == 0
    assert (other.loss, other.masks) == (recipe.loss, recipe.masks)
    for section, keys in {
        "crops": ("blur", "blur_filter"),
        "optimizer": ("lr_rule", "clip_by"),
    }.items():
        for key in keys:
            assert getattr(getattr(other, section), key) == getattr(getattr(recipe, section), key)


def test_the_command_for_a_resnet_changes_these_options_alone(recipe):
    other = load_config(TrainingConfig, find_recipe("training", "dino_resnet50_100ep"))
    assert replace(other.optimizer, name="adamw", lr=0.0005, weight_decay_start=0.04) == replace(
        recipe.optimizer, weight_decay_end=1e-4, layerwise_decay=0.9, patch_embed_lr=0.2
    )  # the last two are for ViTs
    assert (other.optimizer.name, other.optimizer.lr) == ("sgd", 0.03)
    assert other.optimizer.weight_decay_start == other.optimizer.weight_decay_end == 1e-4
    assert (other.crops.global_scale, other.crops.local_scale) == ((0.14, 1.0), (0.05, 0.14))
    scales = {"global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4)}
    assert replace(other.crops, **scales) == recipe.crops
    assert replace(other.dino_head, norm_last_layer=True) == recipe.dino_head
    assert other.teacher == recipe.teacher
