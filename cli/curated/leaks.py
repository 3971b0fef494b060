"""``dinoforge leaks``: find the images of a test set that occur in a pool of images."""

import argparse
import functools
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_launch_arguments,
    add_output_arguments,
    on_change,
    path_argument,
    print_json,
    print_table,
)
from dinoforge.cli.cluster.launch import goes_to_cluster, submit
from dinoforge.cli.recipe_command import open_run

if TYPE_CHECKING:
    from dinoforge.curation.leaks import LeaksSummary

__all__ = ["COMMAND"]

_PRINTED = 10  # pairs


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    paths = "folders, images, tars, patterns, curation runs; several by commas"
    for name, what in (("pool", "where to search"), ("reference", "images to look up")):
        parser.add_argument(name, type=path_argument, metavar=name.upper(), help=f"{what}: {paths}")
    add = functools.partial(parser.add_argument, type=path_argument)
    for name in ("pool", "reference"):
        add(
            f"--{name}",
            dest=f"more_{name}",
            action="append",
            default=[],
            metavar="PATH",
            help=f"another {name.upper()}; may be repeated, and is never split at commas",
        )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change recipe keys, as of curate"
    )
    parser.add_argument(
        "--recipe", default="leaks", metavar="RECIPE", help="YAML file or name (default: leaks)"
    )
    add("--out", default="runs/leaks", metavar="FOLDER", help="run folder (default: runs/leaks)")
    add_launch_arguments(parser, cluster=True)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.config import find_recipe, load_recipe
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.leaks import find_leaks
    from dinoforge.sources.outputs import check_out
    from dinoforge.stages import make_executor

    pool, reference = (
        _split(getattr(args, name)) + getattr(args, f"more_{name}")
        for name in ("pool", "reference")
    )
    check_out([*pool, *reference], args.out, ("curation",))
    # Roles are those of the comparison: see `curation.leaks`.
    sources = [
        {"role": role, "name": name, "paths": [path]}
        for role, paths in (("reference", pool), ("pool", reference))
        for name, path in zip(_names(paths), paths, strict=True)
    ]
    words = [*args.overrides, f"sources={json.dumps(sources)}", f"out={args.out}"]
    loaded = load_recipe(CurationConfig, find_recipe("curation", args.recipe), words)
    if goes_to_cluster(args):
        return submit(args, loaded, "dinoforge.curation.leaks:LEAKS_PIPELINE", {})
    executor = make_executor(args.on)
    try:
        with open_run("leaks", loaded, on_change(args), [*pool, *reference]) as run:
            summary = find_leaks(loaded.config, run, executor)
    finally:
        executor.close()
    if args.json:
        print_json(summary.as_json())
    else:
        _show(summary, Path(args.out))
    return 0


def _split(text: str) -> list[str]:
    """Split a list of paths at commas, unless the whole is a path or a comma is in braces."""
    if os.path.lexists(text):
        return [text]
    parts = [""]
    depth = 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [path_argument(part) for part in parts if part]


def _names(paths: Sequence[str]) -> list[str]:
    """Name every path by its last part, or by all of it where two are equal."""
    short = [Path(path).name.partition(".tar")[0] or path for path in paths]
    counts = Counter(short)
    return [name if counts[name] == 1 else path for name, path in zip(short, paths, strict=True)]


def _show(summary: "LeaksSummary", folder: Path) -> None:
    from dinoforge.curation.leaks import KINDS

    header = ["reference", "images", "in the pool", *KINDS, "undecodable"]
    print_table(
        header,
        [
            [s.name, s.images, s.leaked, *(s.kinds[kind] for kind in KINDS), s.undecodable]
            for s in summary.sets
        ],
    )
    if summary.leaks:
        closest = summary.leaks[:_PRINTED]
        print_table(
            ["reference image", "pool image", "similarity"],
            [[leak.key, leak.pool_key, f"{leak.similarity:.4f}"] for leak in closest],
            title=f"closest pairs ({len(closest)} of {len(summary.leaks):,})",
        )
    print(f"all pairs:     {folder / 'leaks.csv'}")
    print(f"with pictures: {folder / 'leaks.html'}")


COMMAND = Command(
    sentence="find the images of a test set that occur in a pool of images",
    examples=(
        "dinoforge leaks photos/ benchmark/test",
        "dinoforge leaks runs/curated birds/test,cars/test --on local:2",
        "dinoforge leaks my/train my/test --out runs/split decontaminate.threshold=0.9",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
