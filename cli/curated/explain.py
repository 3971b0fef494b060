"""``dinoforge explain``: why an image was kept or dropped, or what a recipe key means."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_output_arguments,
    config_class,
    path_argument,
    print_json,
)
from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from dinoforge.config import KeyHelp

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", type=path_argument, metavar="RUN|KEY", help="a curation run, or a recipe key"
    )
    parser.add_argument(
        "image",
        nargs="?",
        metavar="IMAGE",
        help="path, key or image id; after -- if it begins with -",
    )
    parser.add_argument(
        "--html",
        type=path_argument,
        metavar="FILE",
        help="write the explanation with pictures to FILE",
    )
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    if args.image is None:
        return _explain_key(args)
    from dinoforge.curation.explain import explain

    answer = explain(Path(args.what), args.image)
    if args.html:
        answer.write_html(Path(args.html))
    if args.json:
        print_json(answer.as_json())
    else:
        for sentence in answer.sentences:
            print(sentence)
        if args.html:
            print(f"with pictures: {args.html}")
    return 0


def _explain_key(args: argparse.Namespace) -> int:
    if Path(args.what).is_dir():
        raise UsageError(
            what="no image given", where=str(args.what), do="add a path, a key or an image id"
        )
    matches = _matching_keys(args.what)
    if args.json:
        print_json([vars(help_) | {"command": command} for command, help_ in matches])
        return 0
    for command, help_ in matches:
        print(f"{help_.key}  (dinoforge {command})")
        print(f"  type:    {help_.type}")
        print(f"  default: {help_.default}")
        if help_.range:
            print(f"  range:   {help_.range}")
        print(f"  meaning: {help_.meaning or '-'}")
        print(f"  owner:   {help_.where}")
    return 0


def _matching_keys(word: str) -> "list[tuple[str, KeyHelp]]":
    from dinoforge.config import RECIPE_KINDS, describe_keys, suggest
    from dinoforge.slurm.profile import Profile

    classes = {command: config_class(kind) for command, kind in RECIPE_KINDS.items()}
    classes["--on slurm:PROFILE"] = Profile  # no recipe has these keys: they do not change results
    every = [
        (command, help_)
        for command, config in classes.items()
        for help_ in describe_keys(config).values()
    ]
    section = word.rstrip(".") + "."
    matches = [
        (c, h) for c, h in every if h.key == word or h.key.startswith((section, word + "[]"))
    ]
    if not matches:
        hint = suggest(word, [help_.key for _, help_ in every])
        raise UsageError(
            what=f"`{word}` is neither a run folder nor a recipe key{hint}",
            where="command line",
            do="write dinoforge explain RUN IMAGE, or dinoforge explain KEY",
        )
    return matches


COMMAND = Command(
    sentence="explain why an image was kept or dropped, or what a recipe key means",
    examples=(
        "dinoforge explain runs/quickstart/curation photo_17",
        "dinoforge explain runs/quickstart/curation 42 --html why.html",
        "dinoforge explain optimizer.lr",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
