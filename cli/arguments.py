"""Shared by the sub-commands: parser, arguments, loading a recipe, printing."""

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rich_argparse import RawDescriptionRichHelpFormatter

from dinoforge.errors import Fault, UsageError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from dinoforge.config import Config, Loaded
    from dinoforge.runs import OnChange

__all__ = [
    "Command",
    "HelpFormatter",
    "Parser",
    "add_decoding_arguments",
    "add_launch_arguments",
    "add_output_arguments",
    "add_recipe_choice",
    "add_run_argument",
    "config_class",
    "load",
    "load_flags",
    "make_console",
    "on_change",
    "path_argument",
    "print_json",
    "print_table",
    "recipe_requests",
    "source_argument",
]

C = TypeVar("C", bound="Config")

_PACKAGES = {
    "sharding": "curation.sharding",
    "index": "demo.index",
}  # of kinds of recipes that are no room

RERUN = "rerun the affected stages"  # help text of --update


class HelpFormatter(RawDescriptionRichHelpFormatter):
    """Colors on a terminal; keeps the line breaks of examples, and brackets as they are."""

    text_markup = False
    help_markup = False


class Parser(argparse.ArgumentParser):
    """Reports a mistake on the command line in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        """Print one line (what, where, what to do) and exit with 2."""
        from dinoforge.config import suggest

        word = re.search(r"invalid choice: '([^']*)'", message)
        if word is not None and "COMMAND" in message:
            choices = message.rsplit("choose from", maxsplit=1)[-1]
            hint = suggest(word[1], re.findall(r"'(\w+)'", choices))
            message = f"unknown command `{word[1]}`{hint}"
        line = f"{printable(message)} - {self.prog} - see {self.prog} --help"
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Command:
    """One sub-command: one sentence of help, examples that run, arguments, action."""

    sentence: str
    examples: Sequence[str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def path_argument(text: str) -> str:
    """Read an argument that is a path, for ``type``: ``~`` is replaced as in a recipe."""
    from dinoforge.config.paths import read_path

    try:
        return read_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def source_argument(text: str) -> str:
    """Read an argument that is a path or a URL of images, for ``type``."""
    from dinoforge.config.paths import read_source

    try:
        return read_source(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_recipe_choice(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, ``key=value``, and the flags that look recipes up."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="YAML file, or a name (--list)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change recipe keys")
    look = parser.add_argument_group("recipes")
    look.add_argument("--list", action="store_true", help="list the installed recipes")
    look.add_argument("--show", metavar="NAME", help="print a recipe")
    look.add_argument("--copy", nargs=2, metavar=("NAME", "FILE"), help="copy a recipe to FILE")


def add_launch_arguments(
    parser: argparse.ArgumentParser, *, cluster: bool, update: str = RERUN
) -> None:
    """Add ``--on``, ``--dry-run``, ``--wait``, ``--update`` and ``--fresh``."""
    launch = parser.add_argument_group("launch")
    places = ["in-process (default)", "local:N", *["slurm:PROFILE"] * cluster]
    launch.add_argument("--on", default="in-process", metavar="WHERE", help=", ".join(places))
    if cluster:
        dry_run = "with slurm: print what would be submitted, then exit"
        launch.add_argument("--dry-run", action="store_true", help=dry_run)
        wait = "with slurm: wait until the run has ended"
        launch.add_argument("--wait", action="store_true", help=wait)
    change = launch.add_mutually_exclusive_group()
    accept = f"accept a changed recipe: {update}"
    change.add_argument("--update", action="store_true", help=accept)
    rename = "rename the old run folder and start over"
    change.add_argument("--fresh", action="store_true", help=rename)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, ``-v`` and ``-q``."""
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    for flag, level, text in (("-v", 1, "log details"), ("-q", -1, "log only warnings and errors")):
        output.add_argument(
            flag, dest="verbosity", action="store_const", const=level, default=0, help=text
        )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, ``--workers`` and ``--decode`` of a command that encodes images."""
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    workers = "threads that decode and, on a CPU, run the network (default: one per core)"
    parser.add_argument("--workers", default="auto", metavar="N", help=workers)
    decode = "as decode.KEY of a recipe, e.g. range=[0,4095]; may be repeated"
    parser.add_argument("--decode", action="append", default=[], metavar="KEY=VALUE", help=decode)


def load_flags(args: argparse.Namespace, cls: type[C], flags: Sequence[str]) -> C:
    """Check IMAGES and ``--out`` of a command without a recipe; load its flags and ``--decode``."""
    from dinoforge.config import load_config
    from dinoforge.remote.urls import url_faults
    from dinoforge.sources.outputs import check_out

    if faults := list(url_faults("IMAGES", args.paths)):
        raise UsageError(faults=faults)
    check_out(args.paths, args.out)
    words = [f"{name}={getattr(args, name)}" for name in flags]
    words += [f"decode.{word}" for word in args.decode]
    try:
        return load_config(cls, None, words)
    except UsageError as error:
        faults = [_name_flag(fault, flags, args.command) for fault in error.faults]
        raise UsageError(faults=faults) from error


def _name_flag(fault: Fault, flags: Sequence[str], command: str) -> Fault:
    """Write the key of a fault as the flag that gave it, which `explain` does not know."""
    key = fault.what.removeprefix("`").partition("`")[0]
    if key not in flags:
        return fault
    flag = key.replace("_", "-")
    do = re.sub(r"dinoforge explain \w+", f"dinoforge {command} --help", fault.do)
    return Fault(fault.what.replace(f"`{key}`", f"`--{flag}`", 1), fault.where, do)


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add RUN, a run on a cluster, and the arguments for output."""
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder, as given by out=FOLDER"
    )
    add_output_arguments(parser)


def recipe_requests(args: argparse.Namespace, kind: str) -> bool:
    """Carry out ``--list``, ``--show`` or ``--copy``; False when none was given."""
    from dinoforge.config import find_recipe, list_recipes
    from dinoforge.files import write_text

    if args.list:
        recipes = {name: _first_comment(path) for name, path in list_recipes(kind).items()}
        if args.json:
            print_json(recipes)
        else:
            print_table(["recipe", "description"], list(recipes.items()))
    elif args.show:
        print(find_recipe(kind, args.show).read_text(encoding="utf-8"), end="")
    elif args.copy:
        source, target = find_recipe(kind, args.copy[0]), Path(path_argument(args.copy[1]))
        if target.exists():
            raise UsageError(what="file exists", where=str(target), do="choose another file name")
        write_text(target, source.read_text(encoding="utf-8"))
        print(target)
    return bool(args.list or args.show or args.copy)


def config_class(kind: str) -> type:
    """Return the config class of a kind of recipe: ``dinoforge.curation.config.CurationConfig``."""
    module = importlib.import_module(f"dinoforge.{_PACKAGES.get(kind, kind)}.config")
    cls: type = getattr(module, f"{kind.capitalize()}Config")
    return cls


def load(args: argparse.Namespace, kind: str, cls: type[C]) -> "Loaded[C]":
    """Resolve RECIPE and ``key=value`` into a config; raises all faults as one `UsageError`."""
    from dinoforge.config import find_recipe, load_recipe

    if args.recipe is None:
        do = f"give one: `dinoforge {args.command} --list`"
        raise UsageError(what="no recipe given", where="command line", do=do)
    # Without a recipe file, the overrides may be enough. `Path.exists` raises for long words.
    if "=" in args.recipe and not os.path.exists(args.recipe):  # noqa: PTH110
        return load_recipe(cls, None, [args.recipe, *args.overrides])
    return load_recipe(cls, find_recipe(kind, args.recipe), args.overrides)


def on_change(args: argparse.Namespace) -> "OnChange":
    """Return what a changed recipe does to an existing run, by the flags."""
    return "fresh" if args.fresh else "update" if args.update else "refuse"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))


def make_console(width: int) -> "Console":
    """Make a console on stdout, as wide as the terminal, in a file ``width`` columns."""
    from rich.console import Console

    class OfCommand(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - the error that rich handles; `main` knows whose pipe it is

    is_terminal = sys.stdout.isatty()
    return OfCommand(width=None if is_terminal else width, highlight=False, emoji=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout: ruled on a terminal, plain columns in a file."""
    from rich import box
    from rich.table import Table

    console = make_console(width=120)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(table)


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").removeprefix("recipe:").strip()
    return ""
