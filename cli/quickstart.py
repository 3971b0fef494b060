"""``dinoforge quickstart``: the whole path on real images, from a pile to a report."""

import argparse
import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import (
    RERUN,
    Command,
    add_launch_arguments,
    add_output_arguments,
    config_class,
    on_change,
    path_argument,
    print_json,
    print_table,
)
from dinoforge.errors import Fault, UsageError

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.evaluation.config import EvaluationConfig
    from dinoforge.records import Record
    from dinoforge.runs import OnChange

__all__ = ["COMMAND"]

_SECTIONS = ("curation", "training", "evaluation")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a recipe key: curation.KEY, training.KEY or evaluation.KEY",
    )
    add = functools.partial(parser.add_argument, type=path_argument, metavar="FOLDER")
    add("--images", help="your images instead of the samples")
    add("--seeds", help="examples of the images to retrieve")
    add("--out", default="runs/quickstart", help="run folder")
    update = f"{RERUN}; the training resumes with it"
    add_launch_arguments(parser, cluster=False, update=update)
    add_output_arguments(parser)


class _Clock:
    """Seconds that each step took, in order."""

    def __init__(self) -> None:
        setup = float(os.environ.get("DINOFORGE_SETUP_SECONDS", "0") or 0)
        self.laps = [("installation", setup)] if setup else []
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps.append((name, now - self._last))
        self._last = now


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.curate import curate_run
    from dinoforge.cli.train import train_run
    from dinoforge.evaluation.report.build import make_report

    out = Path(args.out)
    keys = _split(args.overrides)
    clock = _Clock()
    recipes = _load_recipes(out, _find_images(args, out), keys)
    clock.lap("recipes" if args.images else "sample images")
    change = on_change(args)
    curated = curate_run(recipes["curation"], on=args.on, change=change)
    clock.lap("curation")
    folders = {"curation": out / "curation"}
    left_out = list(curated.remarks)
    records: list[Record] = []
    if curated.kept:
        train_run(recipes["training"], change=change)
        clock.lap("training")
        folders["training"] = out / "training"
        records = _evaluate(recipes["evaluation"], args.on, change, left_out)
        clock.lap("evaluation")
    else:
        left_out.append("no training and no evaluation: no image was kept")
    if records:
        folders["evaluation"] = out / "evaluation"
    page = make_report(out, **folders, title="dinoforge quickstart", left_out=left_out)
    clock.lap("report")
    if args.json:
        rows = [record.as_json() for record in records]
        print_json({"report": str(page.html), "records": rows, "left_out": left_out})
        return 0
    funnel = [[row.label, row.count] for row in curated.funnel()]
    print_table(["images", "count"], funnel, title="Curation")
    _print_scores(records)
    if left_out:
        print_table(["left out"], [[text] for text in left_out])
    laps = [*clock.laps, ("total", sum(seconds for _, seconds in clock.laps))]
    print_table(
        ["where the time went", "seconds"], [[name, f"{seconds:.0f}"] for name, seconds in laps]
    )
    print(page.html)
    return 0


def _evaluate(
    recipe: "Loaded[EvaluationConfig]", on: str, change: "OnChange", left_out: list[str]
) -> "list[Record]":
    """Evaluate; without images to test, add the reason to ``left_out`` instead."""
    from dinoforge.cli.evaluate import evaluate_run
    from dinoforge.evaluation.data import NothingToTestError
    from dinoforge.evaluation.scores import list_left_out

    try:
        records = evaluate_run(recipe, on=on, change=change)
    except NothingToTestError as error:
        left_out.append(f"no evaluation: {error.faults[0].what}")
        return []
    left_out += list_left_out(records, recipe.config.protocols)
    return records


def _split(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Sort ``training.steps=10`` into the recipe it belongs to."""
    keys: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    faults = []
    for item in overrides:
        section, dot, rest = item.partition(".")
        if not dot or section not in keys:
            do = "write curation.KEY=VALUE, training.KEY=VALUE or evaluation.KEY=VALUE"
            faults.append(Fault(f"`{item}` names no recipe", "command line", do))
        elif rest.partition("=")[0] == "out":
            what, do = f"`{section}.out` is set by --out", "choose the folder with --out FOLDER"
            faults.append(Fault(what, "command line", do))
        else:
            keys[section].append(rest)
    if faults:
        raise UsageError(faults=faults)
    return keys


def _find_images(args: argparse.Namespace, out: Path) -> dict[str, str]:
    """Return the folder of each role; only the samples have a reference, their test images."""
    from dinoforge.config.paths import plain_path

    if args.images is not None:
        seeds = {} if args.seeds is None else {"seed": plain_path(Path(args.seeds))}
        return seeds | {"pool": plain_path(Path(args.images))}
    if args.seeds is not None:
        raise UsageError(
            what="--seeds without --images", where="command line", do="add --images FOLDER"
        )
    from dinoforge.sources.photographs import write_tiles

    tiles = write_tiles(out / "images", test_stride=48)
    folders = {"seed": tiles.seeds, "pool": tiles.pool, "reference": tiles.test}
    return {role: plain_path(folder) for role, folder in folders.items()}


def _load_recipes(
    out: Path, images: dict[str, str], keys: dict[str, list[str]]
) -> "dict[str, Loaded[Any]]":
    """Resolve the three recipes, with the paths of this run filled in."""
    from dinoforge.config import load_recipe, recipe_folder
    from dinoforge.config.paths import plain_path

    folders = {section: plain_path(out / section) for section in _SECTIONS}
    sources = [{"role": role, "paths": [path]} for role, path in images.items()]
    # The samples have test images; of the user's images, a share is held out.
    test = [images["reference"]] if "reference" in images else []
    bank = [images["pool"], images["seed"]] if test else [images["pool"]]
    paths = {
        "curation": [f"sources={json.dumps(sources)}"],
        "training": [f"data.paths={json.dumps([folders['curation']])}"],
        "evaluation": [
            f"train={json.dumps(bank)}",
            f"test={json.dumps(test)}",
            f"checkpoint={folders['training']}",
        ],
    }
    if not test:  # of few images, few neighbors
        paths["evaluation"].append("knn.k=[1,5,10,20,100,200]")
    if "seed" not in images:
        paths["curation"].append("retrieve.mode=none")
    loaded: dict[str, Loaded[Any]] = {}
    faults: list[Fault] = []
    for section in _SECTIONS:
        recipe = recipe_folder(section) / "quickstart.yaml"
        overrides = [*paths[section], f"out={folders[section]}", *keys[section]]
        try:
            loaded[section] = load_recipe(
                config_class(section), recipe, overrides, shown_prefix=f"{section}."
            )
        except UsageError as error:
            faults.extend(error.faults)
    if faults:
        raise UsageError(faults=faults)
    return loaded


def _print_scores(records: "Sequence[Record]") -> None:
    """Print k-NN accuracy of each model's best features and the differences; else all records."""
    from dinoforge.cli.evaluate import low_high, number
    from dinoforge.evaluation.scores import headline
    from dinoforge.pages.formatting import counted

    scores = headline(records)
    if scores is None:
        rows = [
            [r.model, r.metric, r.settings.get("features", ""), number(r.value, ".3f")]
            for r in records
        ]
        if rows:
            print_table(["model", "metric", "features", "value"], rows, title="Features, no labels")
        return
    rows = [
        [r.model, r.settings.get("features", ""), f"{r.value:.3f}", low_high(r.interval, ".3f")]
        for r in scores.best
    ]
    title = f"k-NN accuracy, k = {scores.k}, {counted(scores.best[0].n, 'test image')}"
    print_table(["model", "features", "accuracy", "95 % interval"], rows, title=title)
    rows = [
        [
            f"{d.model_a} - {d.model_b}",
            f"{d.record.value:+.3f}",
            low_high(d.record.interval, "+.3f"),
        ]
        for d in scores.differences
    ]
    if rows:
        print_table(["paired difference", "accuracy", "95 % interval"], rows)


COMMAND = Command(
    sentence="see the whole path on real images: curate, train, evaluate, report",
    examples=(
        "dinoforge quickstart",
        "dinoforge quickstart --images photos/ --seeds examples/",
        "dinoforge quickstart training.steps=2000 --out runs/longer",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
