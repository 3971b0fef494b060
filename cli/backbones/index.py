"""``dinoforge index``: images made searchable by what a network sees in them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import on_change, print_table
from dinoforge.cli.recipe_command import RecipeCommand, open_run, sort_words

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.demo.index.config import IndexConfig

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    spec = (
        "same as encoder=SPEC; see `dinoforge embed`, or name a training run or a file of weights"
    )
    parser.add_argument("--encoder", metavar="SPEC", help=spec)
    parser.add_argument("--out", metavar="FOLDER", help="as out=FOLDER")


def _read_words(args: argparse.Namespace) -> None:
    given = {"encoder": args.encoder, "out": args.out}
    sort_words(args, [f"{key}={value}" for key, value in given.items() if value is not None])


def _execute(args: argparse.Namespace, loaded: "Loaded[IndexConfig]") -> dict[str, Any]:
    from dinoforge.demo.index.pipeline import PIPELINE
    from dinoforge.stages import make_executor, run_pipeline

    executor = make_executor(args.on)
    try:
        with open_run("index", loaded, on_change(args), loaded.config.sources) as run:
            card: dict[str, Any] = run_pipeline(PIPELINE, run.folder, loaded.config, executor)
            return card
    finally:
        executor.close()


def _show(card: dict[str, Any], folder: Path, *_: object) -> None:
    names = ("encoder", "num_images", "dim")
    print_table(["index", ""], [[name, card[name]] for name in names])
    print(f"index: {folder}")


COMMAND = RecipeCommand(
    kind="index",
    sentence="make images searchable, whole and by their parts, for the demo",
    examples=(
        "dinoforge index photos/ --encoder runs/vits14 --out runs/index",
        "dinoforge index runs/curated encoder=checkpoint:model.safetensors --on local:8",
        "dinoforge index 'shards/*.tar' encoder=mobilenetv2 memory=2 out=runs/index",
    ),
    pipeline="dinoforge.demo.index.pipeline:PIPELINE",
    read_words=_read_words,
    execute=_execute,
    as_json=lambda card: card,
    sources=lambda config: config.sources,
    written=("index", "cache"),
    show=_show,
    add_own_arguments=_add_arguments,
)
