"""Recipes: five lines that give a reader everything, no faults, keys with a meaning, runnable."""

import json
import math
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from dinoforge.cli.arguments import config_class
from dinoforge.cli.main import COMMANDS, load_command, main
from dinoforge.config import RECIPE_KINDS, describe_keys, list_recipes, load_config
from dinoforge.models.pooled.files import load_pooled
from dinoforge.models.weights import load_backbone

CONFIGS = {kind: config_class(kind) for kind in RECIPE_KINDS.values()}
RECIPES = [(kind, name) for kind in CONFIGS for name in list_recipes(kind)]

HEADER = ("recipe", "command", "needs", "expect", "source")

# Recipes of the published sizes are for GPUs: training alone, and planned rather than run.
PUBLISHED = {
    name
    for name in list_recipes("training")
    if re.match(r"((dino_)?vit[sblg]\d+|dino_resnet50|dino_xcit|paws|suncet)(_|$)", name)
}
# Other methods on the images of a recipe that has a curation and an evaluation.
METHODS = {"cifar10_dino_cpu", "cifar10_paws_cpu"}

SUITES = {
    "classification",
    "dense",
    "full",
    "retrieval",
    "video",
}  # evaluations on several data sets

PAPERS = {
    "lvd142m",
    "lvd1689m",
    "datacomp",
}  # curations of published data sets, planned rather than run
CLAIM = {"claim_cifar10", "claim_photographs"}  # what `benchmarks/claim.py` curates

FILLED_IN_BY_COMMANDS = {"quickstart", "leaks"}
FILLED_IN_BY_USERS = {"precise", "small", "shuffle", "millions"}
# What they fill in.
FILLED_IN = {
    "curation": {"out": "x", "sources": "[{role: pool, paths: [x]}, {role: seed, paths: [y]}]"},
    "training": {"out": "x", "data.paths": "[x]"},
    "evaluation": {"out": "x", "train": "[x]"},
    "sharding": {"out": "x", "sources": "[x]"},
    "index": {"out": "x", "sources": "[x]"},
}


def header(kind, name):
    lines = list_recipes(kind)[name].read_text().splitlines()[: len(HEADER)]
    return dict(re.fullmatch(r"# (\w+):\s+(\S.*)", line).groups() for line in lines)


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_a_recipe_loads_without_faults(kind, name):
    path = list_recipes(kind)[name]
    given = yaml.safe_load(path.read_text())
    if "sets" in given:  # in place of `train`
        given["train"] = []
    missing = [f"{k}={v}" for k, v in FILLED_IN[kind].items() if k.split(".")[0] not in given]
    config = load_config(CONFIGS[kind], path, missing)
    assert "???" not in str(config)
    if name not in FILLED_IN_BY_COMMANDS | FILLED_IN_BY_USERS:
        assert missing == [], "only these are filled in"


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_a_recipe_opens_with_the_five_lines_that_a_reader_needs(kind, name):
    reported = header(kind, name)
    assert tuple(reported) == HEADER
    assert re.search(r"\S\s+cost: \d+ (s|min|h)\b", reported["needs"]), reported["needs"]
    assert re.search(r"\d (core|GPU)", reported["needs"])
    assert all(len(words) > 10 for words in reported.values())


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_the_command_of_a_recipe_parses_and_runs_this_recipe(kind, name, check_command):
    reported = re.sub(r"\s*\([^)]*\)", "", header(kind, name)["command"])
    lines = reported.split(", or ")
    assert lines
    for line in lines:
        args = check_command(line)
        if args.command in FILLED_IN_BY_COMMANDS:
            assert name == args.command
        elif args.command in {"shard", "index"}:  # names a file: another word is a source
            assert list_recipes(kind)[name].samefile(args.recipe)
        else:
            assert (RECIPE_KINDS[args.command], args.recipe) == (kind, name)


@pytest.mark.parametrize(
    "line", [line for name in COMMANDS for line in load_command(name).examples]
)
def test_an_example_of_the_help_names_a_recipe_and_keys_that_there_are(line, check_command):
    check_command(line)


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {"sharding", "index"}))
def test_recipes_of_one_name_go_together(kind):
    # The published sizes are trained on what the reader has curated; suites measure any network.
    curations = PAPERS | CLAIM | {"leaks", "precise", "small"}
    own = {"training": PUBLISHED | METHODS, "evaluation": SUITES, "curation": curations}[kind]
    shared = set(list_recipes("training")) - PUBLISHED - METHODS
    assert set(list_recipes(kind)) == shared | own


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_key_states_what_it_means(kind):
    keys = describe_keys(CONFIGS[kind]).values()
    assert len(keys) > 15
    assert {key.key for key in keys if not key.meaning.strip()} == set()


def test_explain_prints_type_default_range_meaning_and_owner_of_a_key(capsys):
    assert main(["explain", "teacher.momentum_start"]) == 0
    reported = dict(line.strip().split(":", 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert set(reported) == {"type", "default", "range", "meaning", "owner"}
    assert reported["type"].strip() == "float"
    assert reported["range"].strip() == "0 to 1"
    assert float(reported["default"]) == pytest.approx(0.992, abs=0.01)
    assert len(reported["meaning"]) > 10
    assert "TeacherConfig" in reported["owner"]


def test_explain_knows_every_key_of_every_recipe(capsys):
    kinds_of: dict[str, set[str]] = {}
    for kind, name in RECIPES:
        for section in yaml.safe_load(list_recipes(kind)[name].read_text()):
            kinds_of.setdefault(section, set()).add(kind)
    for section, kinds in sorted(kinds_of.items()):
        assert main(["explain", section, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert kinds <= {RECIPE_KINDS[answer["command"]] for answer in result}, section


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures of waves, of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        rows, columns = np.mgrid[0 : 40 + number, 0 : 70 - number]
        waves = [
            np.sin(rows * 0.07 * (number + band) + columns / (3 + number)) for band in (1, 2, 3)
        ]
        pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


SMALL = (
    *("steps=3", "batch_size=4", "log_every=1", "threads=1", "device=cpu"),
    *("checkpoint.every=2", "data.num_workers=0"),
    *("optimizer.warmup=null", "optimizer.freeze_last_layer=null"),
    "teacher.temperature_warmup=null",
    *(
        f"{h}_head.{k}"
        for h in ("dino", "ibot")
        for k in ("prototypes=32", "bottleneck=8", "hidden=16")
    ),
)


# In place of its backbone, by whether it is a ViT.
SMALL_VIT = (*("model.architecture=custom", "model.width=32", "model.depth=1", "model.heads=2"),)
SMALL_NETWORK = ("model.architecture=wrn28_2", "crops.global_size=16", "crops.local_size=8")
# Labeled images of PAWS: two classes.
SUPPORT = (
    *("support.subset=", "support.classes=2", "support.images=2", "support.groups=1"),
    *("support.unique_classes=false", "paws.hidden=16", "paws.width=8"),
)


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory):
    """Run folder of the ViT-g of the distillations, in miniature."""
    out = tmp_path_factory.mktemp("teachers") / "giant"
    words = ["train", "vitg14_long", *SMALL, *SMALL_VIT, f"data.paths=[{photos}]", f"out={out}"]
    assert main([*words, "parallel.mode=auto", "-q"]) == 0
    return out


@pytest.mark.parametrize("name", list_recipes("training"))
def test_a_training_recipe_runs_in_miniature(name, photos, teacher, tmp_path, capsys):
    out, labeled = tmp_path / "run", tmp_path / "labeled"
    for at, photo in enumerate(sorted(photos.iterdir())):
        (labeled / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        (labeled / "ab"[at % 2] / photo.name).symlink_to(photo)
    recipe = yaml.safe_load(list_recipes("training")[name].read_text())
    is_vit = "patch_size" in recipe["model"]
    backbone = SMALL_VIT if is_vit else SMALL_NETWORK
    words = [
        "train",
        name,
        *SMALL,
        *backbone,
        *((*SUPPORT, f"support.paths=[{labeled}]") if "support" in recipe else ()),
        *(("start.weights=", "start.freeze_statistics=false") if "start" in recipe else ()),
        *((f"teacher.frozen={teacher}",) if "frozen" in recipe.get("teacher", {}) else ()),
        f"data.paths=[{photos}]",
        f"out={out}",
        "-q",
        "--json",
    ]
    assert main(words) == 0, capsys.readouterr().err
    json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/total"] for row in rows if "loss/total" in row]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    export = out / "export/step-000000003/model.safetensors"
    if is_vit:
        model, config, notes = load_backbone(export)
        assert config.patch_size == recipe["model"]["patch_size"]
        assert notes["crop_size"] == str(recipe["crops"]["global_size"])
    else:
        model, notes = load_pooled(export)
        assert notes["architecture"] == "wrn28_2"
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
