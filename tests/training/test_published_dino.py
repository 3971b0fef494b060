"""Every option of DINO v1's script: a key with the same default, or left out for a reason."""

from dataclasses import asdict, replace

import pytest

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.training.config import TrainingConfig
from dinoforge.training.schedules import scaled_lr

EPOCH = 2502  # steps: 1,281,167 images, 512 in a step on 8 GPUs; the last ones are dropped

# Options of main_dino.py and their defaults.
KEYS = {
    "arch": ("vit_small", "model.architecture", "small"),
    "patch_size": (16, "model.patch_size", 16),
    "out_dim": (65536, "dino_head.prototypes", 65536),
    "norm_last_layer": (True, "dino_head.norm_last_layer", True),
    "momentum_teacher": (0.996, "teacher.momentum_start", 0.996),
    "use_bn_in_head": (False, "dino_head.normalized", False),
    "optimizer": ("adamw", "optimizer.name", "adamw"),
    "warmup_teacher_temp": (0.04, "teacher.temperature_start", 0.04),
    "teacher_temp": (0.04, "teacher.temperature", 0.04),
    "warmup_teacher_temp_epochs": (0, "teacher.temperature_warmup", 0),
    "weight_decay": (0.04, "optimizer.weight_decay_start", 0.04),
    "weight_decay_end": (0.4, "optimizer.weight_decay_end", 0.4),
    "clip_grad": (3.0, "optimizer.clip", 3.0),
    "batch_size_per_gpu": (64, "batch_size", 64 * 8),
    "epochs": (100, "steps", 100 * EPOCH),
    "freeze_last_layer": (1, "optimizer.freeze_last_layer", EPOCH),
    "lr": (0.0005, "optimizer.lr", 0.0005),
    "warmup_epochs": (10, "optimizer.warmup", 10 * EPOCH),
    "min_lr": (1e-6, "optimizer.lr_end", 1e-6),
    "drop_path": (0.1, "model.drop_path", 0.1),
    "global_crops_scale": ((0.4, 1.0), "crops.global_scale", (0.4, 1.0)),
    "local_crops_number": (8, "crops.num_local", 8),
    "local_crops_scale": ((0.05, 0.4), "crops.local_scale", (0.05, 0.4)),
    "saveckp_freq": (20, "checkpoint.export_every", 20 * EPOCH),
    "seed": (0, "seed", 0),
    "data_path": ("/path/to/imagenet/train/", "data.paths", ["data/imagenet1k/train"]),
    "output_dir": (".", "out", "runs/dino_vits16_100ep"),
    "num_workers": (10, "data.num_workers", 10),
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
    _, key, value = KEYS[option]
    result = asdict(recipe)
    for part in key.split("."):
        result = result[part]
    assert result == value


def test_no_option_is_both_kept_and_left_out():
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
