"""``dinoforge shard``: shards from any sources, their bytes unchanged."""

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import on_change, print_table
from dinoforge.cli.recipe_command import RecipeCommand, open_run

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.curation.sharding.config import ShardingConfig
    from dinoforge.curation.sharding.summary import ShardingSummary

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all shards again, also those of a finished run, and compare every checksum",
    )


def _read_words(args: argparse.Namespace) -> None:
    """Sort the words: a YAML file is the recipe, ``key=value`` a key, all others are sources."""
    words = [word for word in (args.recipe, *args.overrides) if word is not None]
    pairs = [word for word in words if "=" in word and not Path(word).exists()]
    recipes = [word for word in words if word.endswith((".yaml", ".yml")) and word not in pairs]
    sources = [word for word in words if word not in pairs and word not in recipes[:1]]
    if sources:
        pairs.insert(0, f"sources={json.dumps(sources)}")
    if args.verify:
        pairs.append("verify=true")
    args.recipe, args.overrides = (recipes or [None])[0], pairs
    if args.recipe is None and pairs:
        args.recipe, args.overrides = pairs[0], pairs[1:]


def _execute(args: argparse.Namespace, loaded: "Loaded[ShardingConfig]") -> "ShardingSummary":
    from dinoforge.curation.sharding.pipeline import PIPELINE
    from dinoforge.stages import make_executor, run_pipeline, stage_folder

    config = loaded.config
    executor = make_executor(args.on)
    try:
        with open_run("shard", loaded, on_change(args), config.sources) as run:
            if config.verify:  # what was compared before is compared again
                (folder,) = (
                    stage_folder(run.folder, PIPELINE.name, stage.number, stage.name)
                    for stage in PIPELINE.stages
                    if stage.name == "verify"
                )
                shutil.rmtree(folder, ignore_errors=True)
            summary: ShardingSummary = run_pipeline(PIPELINE, run.folder, config, executor)
            return summary
    finally:
        executor.close()


def _show(summary: Any, folder: Path, *_: object) -> None:
    from dinoforge.curated import shards_folder
    from dinoforge.curation.sharding.page import page_file
    from dinoforge.pages.formatting import bytes_size

    rows = [
        ["samples of the sources", summary.samples_in],
        *([["not chosen (ids)", summary.not_chosen]] if summary.ids else []),
        ["samples in shards", summary.samples],
        *([["of these: renamed", summary.renamed]] if summary.renamed else []),
        *([["of these: encoded again", summary.encoded]] if summary.encoded else []),
        *(
            [f"of these: {reason.replace('_', ' ')}", count]
            for reason, count in summary.status.items()
            if reason not in {"ok", "encoded"}
        ),
        ["shards", len(summary.shards)],
        *([["shards verified", summary.verified]] if summary.verified else []),
    ]
    print_table(["samples", "count"], rows)
    print(f"page: {page_file(folder)}")
    print(
        f"shards: {shards_folder(folder)} ({bytes_size(sum(s['bytes'] for s in summary.shards))})"
    )


COMMAND = RecipeCommand(
    kind="sharding",
    sentence="write shards from images and shards: build, reshard, shuffle, subset, merge",
    examples=(
        "dinoforge shard photos/ out=runs/photos",
        "dinoforge shard 'old/*.tar' more/ out=runs/mixed order=random --on local:8",
        "dinoforge shard 'pool/*.tar' ids.file=subset.npy ids.field=uid out=runs/subset",
        "dinoforge shard 'old/*.tar' out=runs/mixed --verify",
    ),
    pipeline="dinoforge.curation.sharding.pipeline:PIPELINE",
    read_words=_read_words,
    execute=_execute,
    as_json=lambda summary: summary.as_json(),
    sources=lambda config: [
        str(Path(config.data.root) / path) if config.data.root else path for path in config.sources
    ],
    written=("sharding", "shards"),
    show=_show,
    add_own_arguments=_add_arguments,
)
