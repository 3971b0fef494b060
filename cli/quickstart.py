"""``dinoforge quickstart``: the whole path on real images, from a pile to a report."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoforge.cli.arguments import (
    RERUN,
    Command,
    add_launch_arguments,
    add_output_arguments,
    config_class,
    on_change,
    print_json,
    print_table,
)
from dinoforge.errors import Fault, UsageError

__all__ = ["COMMAND"]

_SECTIONS = ("curation", "training", "evaluation")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a recipe key: curation.KEY, training.KEY or evaluation.KEY",
    )
    parser.add_argument("--images", metavar="FOLDER", help="your images instead of the samples")
    parser.add_argument("--seeds", metavar="FOLDER", help="examples of the images to keep")
    parser.add_argument("--out", default="runs/quickstart", metavar="FOLDER", help="run folder")
    add_launch_arguments(
        parser, local=True, cluster=False, update=f"{RERUN}; the training resumes with it"
    )
    add_output_arguments(parser)


@dataclass(frozen=True)
class _Images:
    """Images to curate (``pool``), examples of what to keep, and images to evaluate with."""

    pool: Path
    seeds: Path | None
    test: Path | None
    bank: Sequence[Path]


class _Clock:
    """Seconds that each step took, in order."""

    def __init__(self) -> None:
        self.laps: list[tuple[str, float]] = []
        self._last = time.monotonic()
        setup = float(os.environ.get("DINOFORGE_SETUP_SECONDS", "0") or 0)
        if setup:
            self.laps.append(("installation", setup))

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps.append((name, now - self._last))
        self._last = now


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.curate import curate_run
    from dinoforge.cli.evaluate import evaluate_run
    from dinoforge.cli.train import train_run
    from dinoforge.evaluation.report import make_report

    out = Path(args.out)
    keys = _split(args.overrides)
    clock = _Clock()
    setup = float(os.environ.get("DINOFORGE_SETUP_SECONDS", "0") or 0)
    if setup:
        clock.laps.append(("installation", setup))
    images = _images(args, out)
    configs = _configs(out, images, keys)
    clock.lap("sample images")
    change = on_change(args)
    curated = curate_run(
        configs["curation"].config, on=args.on, change=change, origins=configs["curation"].origins
    )
    clock.lap("curation")
    train_run(configs["training"].config, change=change, origins=configs["training"].origins)
    clock.lap("training")
    records = evaluate_run(
        configs["evaluation"].config, change=change, origins=configs["evaluation"].origins
    )
    clock.lap("evaluation")
    page = make_report(
        out,
        curation=out / "curation",
        training=out / "training",
        evaluation=out / "evaluation",
        title="dinoforge quickstart",
    )
    clock.lap("report")
    if args.json:
        print_json({"report": str(page.html), "records": [r.as_json() for r in records]})
    else:
        _print_results(curated, records, clock, page.html)
    return 0


def _split(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Sort ``training.steps=10`` into the recipe it belongs to."""
    keys: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    faults = []
    for item in overrides:
        section, dot, rest = item.partition(".")
        if not dot or section not in keys:
            faults.append(
                Fault(
                    f"`{item}` names no recipe",
                    "command line",
                    "write curation.KEY=VALUE, training.KEY=VALUE or evaluation.KEY=VALUE",
                )
            )
        elif rest.partition("=")[0] == "out":
            faults.append(
                Fault(
                    f"`{section}.out` is a folder of this command's own",
                    "command line",
                    "choose the folder of all three with --out FOLDER",
                )
            )
        else:
            keys[section].append(rest)
    if faults:
        raise UsageError(faults=faults)
    return keys


def _images(args: argparse.Namespace, out: Path) -> _Images:
    if args.images is not None:
        pool = Path(args.images)
        seeds = Path(args.seeds) if args.seeds is not None else None
        return _Images(pool, seeds, None, [pool])
    if args.seeds is not None:
        raise UsageError(
            what="--seeds without --images", where="command line", do="add --images FOLDER"
        )
    from dinoforge.sources.photographs import write_tiles

    tiles = write_tiles(out / "images")
    return _Images(tiles.pool, tiles.seeds, tiles.test, [tiles.pool, tiles.seeds])


def _configs(out: Path, images: _Images, keys: dict[str, list[str]]) -> dict[str, Any]:
    """Resolve the three recipes, with the paths of this run filled in."""
    from dinoforge.config import load_recipe, recipe_folder

    roles = {"seed": images.seeds, "pool": images.pool, "reference": images.test}
    sources = [
        {"role": role, "paths": [str(path)]} for role, path in roles.items() if path is not None
    ]
    given = {
        "curation": [f"sources={json.dumps(sources)}"],
        "training": [f"data.paths={json.dumps([str(out / 'curation')])}"],
        "evaluation": [
            f"train={json.dumps([str(path) for path in images.bank])}",
            f"test={json.dumps([str(images.test)] if images.test is not None else [])}",
            f"checkpoint={out / 'training'}",
        ],
    }
    if images.seeds is None:
        given["curation"].append("retrieve.mode=none")
    loaded: dict[str, Any] = {}
    faults: list[Fault] = []
    for section in _SECTIONS:
        recipe = recipe_folder(section) / "quickstart.yaml"
        overrides = [*given[section], f"out={out / section}", *keys[section]]
        try:
            loaded[section] = load_recipe(
                config_class(section), recipe, overrides, shown_prefix=f"{section}."
            )
        except UsageError as error:
            faults.extend(error.faults)
    if faults:
        raise UsageError(faults=faults)
    return loaded


def _print_results(curated: Any, records: Any, clock: _Clock, page: Path) -> None:
    print_table(
        ["images", "count"], [[row.label, row.count] for row in curated.funnel()], title="Curation"
    )
    _print_scores(records)
    total = sum(seconds for _, seconds in clock.laps)
    print_table(
        ["where the time went", "seconds"],
        [[name, f"{seconds:.0f}"] for name, seconds in [*clock.laps, ("together", total)]],
    )
    print(page)


def _print_scores(records: Any) -> None:
    """Print k-NN accuracy of each model's best features and the differences; else what there is."""
    from dinoforge.evaluation.report.scores import headline

    found = headline(records)
    if found is None:
        rows = [
            [r.model, r.metric, r.settings.get("features", ""), f"{r.value:.3f}"] for r in records
        ]
        if rows:
            print_table(["model", "metric", "features", "value"], rows, title="Features, no labels")
        return
    rows = [
        [r.model, r.settings.get("features", ""), f"{r.value:.3f}", _low_high(r.interval)]
        for r in found.best
    ]
    title = f"k-NN accuracy, k = {found.k}, {found.best[0].n:,} test images"
    print_table(["model", "features", "accuracy", "95 % interval"], rows, title=title)
    rows = [
        [f"{d.model_a} - {d.model_b}", f"{d.record.value:+.3f}", _low_high(d.record.interval, "+")]
        for d in found.differences
    ]
    if rows:
        print_table(["paired difference", "accuracy", "95 % interval"], rows)


def _low_high(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} .. {interval[1]:{sign}.3f}"


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
