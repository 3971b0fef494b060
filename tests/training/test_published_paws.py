"""Every key of the configs of PAWS: a key with the same value, or left out for a reason."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pytest
import yaml
from torch import nn

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.evaluation.settings import SoftNnConfig
from dinoforge.models.batch_norm import BatchNorm1d
from dinoforge.training.attention import AttentionSetting
from dinoforge.training.build import build_on_meta
from dinoforge.training.config import TrainingConfig

# All keys of the published files of configs/, with their values.
FILES = yaml.safe_load("""
paws/imgnt_train:
  criterion: {classes_per_batch: 15, me_max: true, sharpen: 0.25, supervised_imgs_per_class: 7,
    supervised_views: 1, temperature: 0.1, unsupervised_batch_size: 64}
  data: {color_jitter_strength: 1.0, data_seed: null, dataset: imagenet,
    image_folder: imagenet_full_size/061417/, label_smoothing: 0.1, multicrop: 6, normalize: true,
    root_path: datasets/, subset_path: imagenet_subsets, unique_classes_per_rank: true,
    unlabeled_frac: 0.9}
  logging: {folder: /path_to_save_models_and_logs/, write_tag: paws}
  meta: {copy_data: true, device: 'cuda:0', load_checkpoint: false, model_name: resnet50,
    output_dim: 2048, read_checkpoint: null, use_fp16: true, use_pred_head: true}
  optimization: {epochs: 100, final_lr: 0.064, lr: 6.4, momentum: 0.9, nesterov: false,
    start_lr: 0.3, warmup: 10, weight_decay: 1.0e-06}
paws/cifar10_train:
  criterion: {classes_per_batch: 10, me_max: true, sharpen: 0.25, supervised_imgs_per_class: 64,
    supervised_views: 2, temperature: 0.1, unsupervised_batch_size: 256}
  data: {color_jitter_strength: 0.5, data_seed: 152, dataset: cifar10, image_folder: cifar10-data/,
    label_smoothing: 0.1, multicrop: 6, normalize: true, root_path: datasets/,
    subset_path: cifar10_subsets/, unique_classes_per_rank: false, unlabeled_frac: 0.92}
  logging: {folder: /path_to_save_models_and_logs/, write_tag: paws}
  meta: {copy_data: true, device: 'cuda:0', load_checkpoint: false, model_name: wide_resnet28w2,
    output_dim: 128, read_checkpoint: null, use_fp16: true, use_pred_head: false}
  optimization: {epochs: 600, final_lr: 0.032, lr: 3.2, momentum: 0.9, nesterov: false,
    start_lr: 0.8, warmup: 10, weight_decay: 1.0e-06}
paws/cifar10_snn:
  criterion: {classes_per_batch: 10, supervised_views: 2, supervised_batch_size: 64,
    temperature: 0.1}
  data: {data_seed: 152, dataset: cifar10_fine_tune, image_folder: cifar10-data/,
    label_smoothing: 0.0, normalize: true, root_path: datasets/, subset_path: cifar10_subsets/,
    unique_classes_per_rank: false, unlabeled_frac: 0.92}
  logging: {folder: /path_to_pretrained_models_and_logs/, pretrain_path: paws-latest.pth.tar,
    write_tag: paws-latest-SNN}
  meta: {copy_data: true, device: 'cuda:0', load_checkpoint: false, model_name: wide_resnet28w2,
    output_dim: 128, use_pred_head: false, use_fp16: true}
  optimization: {epochs: 30, final_lr: 0.01, lr: 0.1, momentum: 0.9, nesterov: false, start_lr: 0.1,
    use_lars: true, warmup: 0, weight_decay: 0.0}
paws/imgnt_fine_tune:
  data: {data_seed: 152, dataset: imagenet_fine_tune, image_folder: imagenet_full_size/061417/,
    normalize: true, num_classes: 1000, root_path: datasets/, subset_path: imagenet_subsets/,
    unlabeled_frac: 0.90}
  logging: {folder: /path_to_save_models_and_logs/, pretrain_path: paws-latest.pth.tar,
    write_tag: paws-latest}
  meta: {copy_data: true, device: 'cuda:0', load_checkpoint: false, master_port: 4029,
    model_name: resnet50, training: true, use_fp16: true}
  optimization: {epochs: 50, lr: 0.02, use_lars: false, weight_decay: 0.0, zero_init: true}
suncet/imgnt_train:
  criterion: {classes_per_batch: 20, supervised_epochs: 100, supervised_imgs_per_class: 2,
    supervised_views: 1, temperature: 0.1, unsupervised_batch_size: 44}
  data: {color_jitter_strength: 1.0, dataset: imagenet, image_folder: imagenet_full_size/061417/,
    label_smoothing: 0.0, normalize: true, root_path: datasets/, subset_path: imagenet_subsets,
    unique_classes_per_rank: false, unlabeled_frac: 0.9}
  logging: {folder: /path_to_save_models_and_logs/, write_tag: suncet-tmp}
  meta: {copy_data: true, device: 'cuda:0', load_checkpoint: false, model_name: resnet50,
    output_dim: 2048, read_checkpoint: null, use_fp16: true, use_pred_head: false}
  optimization: {epochs: 100, final_lr: 0.048, lr: 4.8, momentum: 0.9, nesterov: false,
    start_lr: 0.6, warmup: 10, weight_decay: 1.0e-06}
""")


@dataclass(frozen=True)
class Run:
    """A recipe, and what its published file does not have."""

    recipe: str
    file: str
    epoch: int  # steps; the last, smaller batch is dropped
    ranks: int = 1
    images: int = 256  # of a step, in fine-tuning
    without: Mapping[str, str] = field(default_factory=dict)  # like `LEFT_OUT`, here alone

    @property
    def values(self):
        sections = FILES[self.file].items()
        return {f"{section}.{key}": v for section, keys in sections for key, v in keys.items()}

    @property
    def kept(self):
        return KEYS.keys() & self.values.keys() - self.without.keys()

    @property
    def is_cifar10(self):
        return "cifar10" in self.file

    @property
    def subset(self):
        """Name of the file that lists the labeled images, as the published code makes it."""
        values = self.values
        name = f"{int(values['data.unlabeled_frac'] * 100)}percent.txt"
        if self.is_cifar10:
            name = f"spc.4000_split.{values['data.data_seed']}.txt"
        return f"data/{values['data.subset_path'].rstrip('/')}/{name}"


NO_SEED = {"data.data_seed": "not read for ImageNet: the list of labels is a file"}
RUNS = [
    Run("paws_resnet50_10pct", "paws/imgnt_train", epoch=312, ranks=64, without=NO_SEED),
    Run("paws_wrn28_2", "paws/cifar10_train", epoch=195),
    Run("suncet_resnet50", "suncet/imgnt_train", epoch=454, ranks=64),
    Run(
        *("paws_wrn28_2_snn", "paws/cifar10_snn", 400 // 64),
        without={"optimization.start_lr": "there is no warm-up"},
    ),
    Run("paws_resnet50_10pct_tuned", "paws/imgnt_fine_tune", 128, images=1000, without=NO_SEED),
]
# Published key: the recipe's key and its value there, if that is not the published one.
KEYS = {
    "criterion.classes_per_batch": ("support.classes",),
    "criterion.me_max": ("paws.me_max", lambda on, _: float(on)),
    "criterion.sharpen": ("paws.sharpening",),
    "criterion.supervised_batch_size": ("support.images",),
    "criterion.supervised_imgs_per_class": ("support.images",),
    "criterion.supervised_views": ("support.views",),
    "criterion.temperature": ("paws.temperature",),
    "criterion.unsupervised_batch_size": ("batch_size", lambda size, run: size * run.ranks),
    "data.color_jitter_strength": ("crops.brightness", lambda strength, _: 0.8 * strength),
    "data.data_seed": ("support.subset", lambda _, run: run.subset),
    "data.image_folder": (
        "data.paths",
        lambda _, run: ["data/cifar10/train" if run.is_cifar10 else "data/imagenet1k/train"],
    ),
    "data.label_smoothing": ("paws.smoothing",),
    "data.multicrop": ("crops.num_local",),
    "data.normalize": (
        "crops.std",
        lambda _, run: (0.2023, 0.1994, 0.2010) if run.is_cifar10 else (0.229, 0.224, 0.225),
    ),
    "data.num_classes": ("support.classes",),
    "data.subset_path": ("support.subset", lambda _, run: run.subset),
    "data.unique_classes_per_rank": ("support.unique_classes",),
    "data.unlabeled_frac": ("support.subset", lambda _, run: run.subset),
    "logging.folder": ("out", lambda _, run: f"runs/{run.recipe}"),
    "logging.pretrain_path": (
        "start.weights",
        lambda _, run: f"runs/{'paws_wrn28_2' if run.is_cifar10 else 'paws_resnet50_10pct'}",
    ),
    "meta.model_name": (
        "model.architecture",
        lambda name, _: {"wide_resnet28w2": "wrn28_2"}.get(name, name),
    ),
    "meta.output_dim": ("paws.width",),
    "meta.use_pred_head": ("paws.prediction",),
    "optimization.epochs": ("steps", lambda epochs, run: epochs * run.epoch),
    "optimization.final_lr": ("optimizer.lr_end",),
    "optimization.lr": ("optimizer.lr", lambda lr, run: lr * run.images / 256),
    "optimization.momentum": ("optimizer.momentum",),
    "optimization.start_lr": ("optimizer.lr_start",),
    "optimization.use_lars": ("optimizer.name", lambda on, _: "lars" if on else "sgd"),
    "optimization.warmup": ("optimizer.warmup", lambda epochs, run: epochs * run.epoch),
    "optimization.weight_decay": ("optimizer.weight_decay_end",),
    "optimization.zero_init": ("method", lambda on, _: "supervised" if on else ""),
}
LEFT_OUT = {
    "criterion.supervised_epochs": "as many as epochs: labeled images in every step",
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
    "optimization.nesterov": "false in all files",
}


@pytest.fixture(scope="module")
def recipes():
    names = [*(run.recipe for run in RUNS), "paws_resnet50_1pct", "paws_vits16"]
    return {name: load_config(TrainingConfig, find_recipe("training", name)) for name in names}


@pytest.mark.parametrize(
    ("run", "published"), [(run, key) for run in RUNS for key in sorted(run.kept)]
)
def test_a_published_value_is_that_of_the_recipe(recipes, run, published):
    key, *rule = KEYS[published]
    wanted = run.values[published]
    for convert in rule:
        wanted = convert(wanted, run)
    result = asdict(recipes[run.recipe])
    for part in key.split("."):
        result = result[part]
    assert result == wanted


@pytest.mark.parametrize("run", RUNS)
def test_every_published_key_is_kept_or_left_out_for_a_reason(run):
    reasons = LEFT_OUT | run.without
    assert run.kept | reasons.keys() & run.values.keys() == run.values.keys()
    assert not run.kept & reasons.keys()
    assert all(reasons.values())


def test_the_tables_have_no_key_that_no_file_has():
    published = set().union(*(run.values for run in RUNS))
    assert KEYS.keys() | LEFT_OUT.keys() == published
    assert all(run.without.keys() <= run.values.keys() for run in RUNS)


def test_fine_tuning_keeps_the_statistics_where_the_published_one_does(recipes):
    nearest, linear = recipes["paws_wrn28_2_snn"], recipes["paws_resnet50_10pct_tuned"]
    assert (nearest.method, nearest.paws.contrastive) == ("suncet", 0)
    assert (nearest.start.freeze_statistics, linear.start.freeze_statistics) == (True, False)
    # The whole image of 32 pixels, as published: `basic` transforms have no crops.
    assert nearest.crops.global_scale == nearest.crops.ratio == (1, 1)
    for recipe in (nearest, linear):
        assert (recipe.crops.num_local, recipe.crops.jitter_prob) == (0, 0)
        assert recipe.optimizer.momentum_of == "steps"


@pytest.mark.parametrize(
    "name", ["paws_resnet50_10pct", "paws_resnet50_1pct", "paws_wrn28_2", "suncet_resnet50"]
)
def test_what_the_code_does_without_a_key(recipes, name):
    recipe, is_small = recipes[name], name == "paws_wrn28_2"
    assert recipe.method == name.split("_")[0]
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
    if recipe.method == "paws":
        assert (crops.local_size, crops.local_scale) == (96, (0.05, 0.14))
    else:
        assert crops.num_local == 0
    assert crops.global_size == 224
    assert crops.global_scale == (0.14 if recipe.method == "paws" else 0.08, 1.0)
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
    # "Same as RN50, but with GELU activations", and without a bottleneck: [256, 256].
    assert (recipe.paws.normalized, recipe.paws.activation) == (True, "gelu")
    method = build_on_meta(recipe, AttentionSetting(backend="sdpa", packed=False, device="cpu"))
    prediction = method.student["prediction"]
    assert [type(layer) for layer in prediction][2:4] == [BatchNorm1d, nn.GELU]
    assert prediction.fc1.weight.shape == prediction.fc2.weight.shape == (256, 256)
    assert (recipe.batch_size, recipe.steps % 1251) == (1024, 0)


def test_the_evaluation_has_the_published_temperature():
    assert SoftNnConfig().temperature == 0.1
