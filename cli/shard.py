"""``dinoforge shard``: shards from any sources, their bytes unchanged."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import on_change, print_table
from dinoforge.cli.recipe_command import RecipeCommand, open_run, sort_words

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
    sort_words(args, ["verify=true"] * args.verify)


def _execute(args: argparse.Namespace, loaded: "Loaded[ShardingConfig]") -> "ShardingSummary":
    from dinoforge.curation.sharding.pipeline import PIPELINE
    from dinoforge.sources.streams import copy_streams
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
            copy_streams(config.sources, run.folder)
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
        *(
            [f"never downloaded: {status.replace('_', ' ')}", count]
            for status, count in summary.not_downloaded.items()
        ),
        ["shards", len(summary.shards)],
        *([["shards verified", summary.verified]] if summary.verified else []),
    ]
    print_table(["samples", "count"], rows)
    print(f"page: {page_file(folder)}")
    print(
        f"shards: {shards_folder(folder)} ({bytes_size(sum(s['bytes'] for s in summary.shards))})"
    )


def _sources(config: "ShardingConfig") -> list[str]:
    from dinoforge.curation.sharding.discover import source_paths

    return source_paths(config)


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
    sources=_sources,
    written=("sharding", "shards"),
    show=_show,
    add_own_arguments=_add_arguments,
)
