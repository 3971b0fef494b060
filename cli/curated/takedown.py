"""``dinoforge takedown``: remove images from the shards of a finished curation."""

import argparse
from pathlib import Path

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.errors import UsageError

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder of a finished dinoforge curate"
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image id, key (of the source or of the shards) or sha256; none: complete a takedown",
    )
    parser.add_argument(
        "--file", type=path_argument, metavar="FILE", help="text file with one image per line"
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the ledger")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.recipe_command import open_run
    from dinoforge.config import Loaded, config_of
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.rewrite import take_down
    from dinoforge.runs import read_recipe

    folder = Path(args.run)
    recipe = read_recipe(folder)
    if not (recipe and (folder / "curation").is_dir()):
        do = "run `dinoforge curate` to its end, or name its run folder"
        raise UsageError(what="not a finished curation run", where=str(folder), do=do)
    config = config_of(CurationConfig, recipe | {"out": str(folder)})
    images = [*args.images, *(_read_lines(Path(args.file)) if args.file else [])]
    with open_run("curate", Loaded(config, {}), "refuse") as run:
        summary = take_down(run, config, images, args.reason)
    if args.json:
        print_json(summary.as_json())
        return 0
    print(f"{summary.taken_down:,} images taken down, {summary.new:,} of them now")
    print(f"shards rewritten: {', '.join(summary.shards) or 'none'}")
    print(f"images kept: {summary.kept:,}")
    if summary.duplicates_kept:
        some = " ".join(map(str, summary.duplicates_kept[:10]))
        num = len(summary.duplicates_kept)
        print(f"kept images that are duplicates of these, {num:,}: {some}")
    return 0


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the list of images cannot be read: {error}"
        do = "give a text file with one image per line"
        raise UsageError(what=what, where=str(path), do=do) from error
    return [line.strip() for line in lines if line.strip()]


COMMAND = Command(
    sentence="remove images from the shards of a finished curation, for good",
    examples=(
        "dinoforge takedown runs/curated 1042 000017311 --reason 'request of the author'",
        "dinoforge takedown runs/curated --file ids.txt",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
