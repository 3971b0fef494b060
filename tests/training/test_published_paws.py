"""Every key of the configs of PAWS: a key with the same value, or left out for a reason."""

from dataclasses import asdict

import pytest

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.evaluation.settings import SoftNnConfig
from dinoforge.training.config import TrainingConfig

EPOCHS = {
    "imagenet": 312,
    "cifar10": 195,
    "suncet": 454,
}  # steps; the last, smaller batch is dropped

# configs/paws/imgnt_train.yaml, of which 64 ranks run, and what the code does without a key.
IMAGENET = {
    "criterion.classes_per_batch": (15, "support.classes", 15),
    "criterion.me_max": (True, "paws.me_max", 1.0),
    "criterion.sharpen": (0.25, "paws.sharpening", 0.25),
    "criterion.supervised_imgs_per_class": (7, "support.images", 7),
    "criterion.supervised_views": (1, "support.views", 1),
    "criterion.temperature": (0.1, "paws.temperature", 0.1),
    "criterion.unsupervised_batch_size": (64, "batch_size", 64 * 64),
    "data.color_jitter_strength": (1.0, "crops.brightness", 0.8),
    "data.image_folder": ("imagenet_full_size/061417/", "data.paths", ["data/imagenet1k/train"]),
    "data.label_smoothing": (0.1, "paws.smoothing", 0.1),
    "data.multicrop": (6, "crops.num_local", 6),
    "data.normalize": (True, "crops.mean", (0.485, 0.456, 0.406)),
    "data.subset_path": (
        *("imagenet_subsets", "support.subset", "data/imagenet_subsets/90percent.txt"),
    ),
    "data.unlabeled_frac": (
        *(0.9, "support.subset", "data/imagenet_subsets/90percent.txt"),  # a file is named after it
    ),
    "data.unique_classes_per_rank": (True, "support.unique_classes", True),
    "logging.folder": ("/path_to_save_models_and_logs/", "out", "runs/paws_resnet50_10pct"),
    "meta.model_name": ("resnet50", "model.architecture", "resnet50"),
    "meta.output_dim": (2048, "paws.width", 2048),
    "meta.use_pred_head": (True, "paws.prediction", True),
    "optimization.epochs": (100, "steps", 100 * EPOCHS["imagenet"]),
    "optimization.final_lr": (0.064, "optimizer.lr_end", 0.064),
    "optimization.lr": (6.4, "optimizer.lr", 6.4),
    "optimization.momentum": (0.9, "optimizer.momentum", 0.9),
    "optimization.start_lr": (0.3, "optimizer.lr_start", 0.3),
    "optimization.warmup": (10, "optimizer.warmup", 10 * EPOCHS["imagenet"]),
    "optimization.weight_decay": (1e-6, "optimizer.weight_decay_end", 1e-6),
}
# configs/paws/cifar10_train.yaml: keys with another value.
CIFAR10 = IMAGENET | {
    "criterion.classes_per_batch": (10, "support.classes", 10),
    "criterion.supervised_imgs_per_class": (64, "support.images", 64),
    "criterion.supervised_views": (2, "support.views", 2),
    "criterion.unsupervised_batch_size": (256, "batch_size", 256),
    "data.color_jitter_strength": (0.5, "crops.brightness", 0.4),
    "data.data_seed": (152, "support.subset", "data/cifar10_subsets/spc.4000_split.152.txt"),
    "data.image_folder": ("cifar10-data/", "data.paths", ["data/cifar10/train"]),
    "data.normalize": (True, "crops.std", (0.2023, 0.1994, 0.2010)),
    "data.subset_path": (
        *("cifar10_subsets/", "support.subset", "data/cifar10_subsets/spc.4000_split.152.txt"),
    ),
    "data.unlabeled_frac": (
        *(0.92, "support.subset", "data/cifar10_subsets/spc.4000_split.152.txt"),
    ),
    "data.unique_classes_per_rank": (False, "support.unique_classes", False),
    "logging.folder": ("/path_to_save_models_and_logs/", "out", "runs/paws_wrn28_2"),
    "meta.model_name": ("wide_resnet28w2", "model.architecture", "wrn28_2"),
    "meta.output_dim": (128, "paws.width", 128),
    "meta.use_pred_head": (False, "paws.prediction", False),
    "optimization.epochs": (600, "steps", 600 * EPOCHS["cifar10"]),
    "optimization.final_lr": (0.032, "optimizer.lr_end", 0.032),
    "optimization.lr": (3.2, "optimizer.lr", 3.2),
    "optimization.start_lr": (0.8, "optimizer.lr_start", 0.8),
    "optimization.warmup": (10, "optimizer.warmup", 10 * EPOCHS["cifar10"]),
}
# configs/suncet/imgnt_train.yaml, of which 64 ranks run: keys with another value.
SUNCET = IMAGENET | {
    "criterion.classes_per_batch": (20, "support.classes", 20),
    "criterion.supervised_imgs_per_class": (2, "support.images", 2),
    "criterion.unsupervised_batch_size": (44, "batch_size", 64 * 44),
    "data.label_smoothing": (0.0, "paws.smoothing", 0.0),
    "data.unique_classes_per_rank": (False, "support.unique_classes", False),
    "logging.folder": ("/path_to_save_models_and_logs/", "out", "runs/suncet_resnet50"),
    "meta.use_pred_head": (False, "paws.prediction", False),
    "optimization.epochs": (100, "steps", 100 * EPOCHS["suncet"]),
    "optimization.final_lr": (0.048, "optimizer.lr_end", 0.048),
    "optimization.lr": (4.8, "optimizer.lr", 4.8),
    "optimization.start_lr": (0.6, "optimizer.lr_start", 0.6),
    "optimization.warmup": (10, "optimizer.warmup", 10 * EPOCHS["suncet"]),
}
for name in ("criterion.me_max", "criterion.sharpen", "data.multicrop"):
    del SUNCET[name]
# configs/paws/cifar10_snn.yaml: labeled images alone, from the weights of PAWS.
TUNED_CIFAR10 = {
    "criterion.classes_per_batch": (10, "support.classes", 10),
    "criterion.supervised_batch_size": (64, "support.images", 64),
    "criterion.supervised_views": (2, "support.views", 2),
    "criterion.temperature": (0.1, "paws.temperature", 0.1),
    "data.data_seed": (152, "support.subset", "data/cifar10_subsets/spc.4000_split.152.txt"),
    "data.label_smoothing": (0.0, "paws.smoothing", 0.0),
    "logging.pretrain_path": ("paws-latest.pth.tar", "start.weights", "runs/paws_wrn28_2"),
    "meta.model_name": ("wide_resnet28w2", "model.architecture", "wrn28_2"),
    "meta.output_dim": (128, "paws.width", 128),
    "meta.use_pred_head": (False, "paws.prediction", False),
    "optimization.epochs": (30, "steps", 30 * (400 // 64)),
    "optimization.final_lr": (0.01, "optimizer.lr_end", 0.01),
    "optimization.lr": (0.1, "optimizer.lr", 0.1),
    "optimization.momentum": (0.9, "optimizer.momentum", 0.9),
    "optimization.use_lars": (True, "optimizer.name", "lars"),
    "optimization.warmup": (0, "optimizer.warmup", 0),
    "optimization.weight_decay": (0.0, "optimizer.weight_decay_end", 0.0),
}
# configs/paws/imgnt_fine_tune.yaml: a batch of 256 images, here one of each class.
TUNED_IMAGENET = {
    "data.num_classes": (1000, "support.classes", 1000),
    "data.unlabeled_frac": (0.9, "support.subset", "data/imagenet_subsets/90percent.txt"),
    "logging.pretrain_path": ("paws-latest.pth.tar", "start.weights", "runs/paws_resnet50_10pct"),
    "meta.model_name": ("resnet50", "model.architecture", "resnet50"),
    "optimization.epochs": (50, "steps", 50 * 128),
    "optimization.lr": (0.02, "optimizer.lr", 0.02 * 1000 / 256),
    "optimization.use_lars": (False, "optimizer.name", "sgd"),
    "optimization.weight_decay": (0.0, "optimizer.weight_decay_end", 0.0),
    "optimization.zero_init": (True, "method", "supervised"),
}
# Of all five files.
LEFT_OUT = {
    "criterion.supervised_epochs": "as many as epochs: labeled images in every step",
    "data.data_seed": "null in ImageNet: the list of labels is a file",
    "data.dataset": "crops and paths are keys of their own",
    "data.root_path": "data.paths has the whole path",
    "logging.write_tag": "names of files are fixed",
    "meta.copy_data": "data.cache keeps decoded images",
    "meta.device": "device, auto by default",
    "meta.load_checkpoint": "a run resumes by itself",
    "meta.master_port": "ranks find each other by --on, SLURM or torchrun",
    "meta.read_checkpoint": "likewise",
    "meta.training": "evaluation is a command of its own",
    "meta.use_fp16": "precision: bfloat16 needs no loss scaling",
    "optimization.nesterov": "false in all trainings",
    "optimization.use_lars": "optimizer.name; true in all trainings but fine-tuning",
}
PUBLISHED = {
    "paws_resnet50_10pct": IMAGENET,
    "paws_wrn28_2": CIFAR10,
    "suncet_resnet50": SUNCET,
    "paws_wrn28_2_snn": TUNED_CIFAR10,
    "paws_resnet50_10pct_tuned": TUNED_IMAGENET,
}


@pytest.fixture(scope="module")
def recipes():
    return {
        name: load_config(TrainingConfig, find_recipe("training", name))
        for name in [*PUBLISHED, "paws_resnet50_1pct", "paws_vits16"]
    }


@pytest.mark.parametrize(
    ("name", "published"), [(name, key) for name, keys in PUBLISHED.items() for key in keys]
)
def test_a_published_value_is_that_of_the_recipe(recipes, name, published):
    _, key, value = PUBLISHED[name][published]
    result = asdict(recipes[name])
    for part in key.split("."):
        result = result[part]
    assert result == value


def test_no_key_is_both_kept_and_left_out():
    assert IMAGENET.keys() & LEFT_OUT.keys() == set()
    assert CIFAR10.keys() & LEFT_OUT.keys() == {"data.data_seed"}
    assert all(LEFT_OUT.values())


def test_fine_tuning_keeps_the_statistics_where_the_published_one_does(recipes):
    nearest, linear = recipes["paws_wrn28_2_snn"], recipes["paws_resnet50_10pct_tuned"]
    assert (nearest.method, nearest.paws.contrastive) == ("suncet", 0)
    assert (nearest.start.freeze_statistics, linear.start.freeze_statistics) == (True, False)
    assert nearest.crops.global_scale == recipes["paws_wrn28_2"].crops.global_scale
    for recipe in (nearest, linear):
        assert (recipe.crops.num_local, recipe.crops.jitter_prob) == (0, 0)


@pytest.mark.parametrize("name", ["paws_resnet50_10pct", "paws_resnet50_1pct", "paws_wrn28_2"])
def test_what_the_code_does_without_a_key(recipes, name):
    recipe, is_small = recipes[name], name == "paws_wrn28_2"
    assert recipe.method == "paws"
    optimizer, crops = recipe.optimizer, recipe.crops
    assert (optimizer.name, optimizer.momentum_of, optimizer.trust) == ("lars", "steps", 0.001)
    assert (optimizer.lr_rule, optimizer.clip) == ("none", 0)
    assert optimizer.weight_decay_start == optimizer.weight_decay_end
    assert (crops.saturation, crops.hue) == (crops.brightness, crops.brightness / 4)
    assert (crops.contrast, crops.jitter_prob) == (crops.brightness, 0.8)
    assert (crops.interpolation, crops.flip_prob) == ("bilinear", 0.5)
    if is_small:
        assert (crops.global_size, crops.local_size) == (32, 18)
        assert (crops.global_scale, crops.local_scale) == ((0.75, 1.0), (0.3, 0.75))
        assert (crops.solarize, crops.solarize_prob, crops.equalize_prob) == ("every", 0.2, 0.2)
        assert (crops.grayscale_prob, crops.blur_probs()) == (0, (0, 0, 0))
        assert (recipe.paws.hidden, recipe.support.groups) == (128, 1)
        return
    assert (crops.global_size, crops.local_size) == (224, 96)
    assert (crops.global_scale, crops.local_scale) == ((0.14, 1.0), (0.05, 0.14))
    assert (crops.solarize_prob, crops.equalize_prob, crops.grayscale_prob) == (0, 0, 0.2)
    assert (crops.blur_probs(), crops.blur_filter) == ((0.5, 0.5, 0.5), "pillow")
    assert (recipe.paws.hidden, recipe.support.groups) == (2048, 64)


def test_the_recipe_of_a_vit_has_the_values_that_its_author_gave(recipes):
    recipe, other = recipes["paws_vits16"], recipes["paws_resnet50_10pct"]
    assert (recipe.support, recipe.crops) == (other.support, other.crops)
    assert recipe.support.rows == 6720
    optimizer = recipe.optimizer
    assert (optimizer.lr_start, optimizer.lr, optimizer.lr_end) == (2e-4, 1e-3, 1e-6)
    assert (optimizer.weight_decay_start, optimizer.weight_decay_end) == (0.04, 0.4)
    assert (recipe.paws.hidden, recipe.paws.width, recipe.paws.prediction) == (256, 256, True)
    assert (recipe.batch_size, recipe.steps % 1251) == (1024, 0)


def test_the_evaluation_has_the_published_temperature():
    assert SoftNnConfig().temperature == 0.1
