"""The project's texts, and the command line's own reading of a command."""

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dinoforge.cli.arguments import config_class
from dinoforge.cli.main import build_parser
from dinoforge.cli.plan import kind_of
from dinoforge.config import RECIPE_KINDS, describe_keys, find_recipe, load_config

ROOT = Path(__file__).resolve().parents[2]

# The least that a recipe of each kind must have.
LEAST = {
    "curation": ("out=runs/x", "sources=[{role: pool, paths: [x]}]"),
    "training": ("out=runs/x", "data.paths=[x]"),
    "evaluation": ("out=runs/x", "train=[x]"),
    "sharding": ("out=runs/x", "sources=[x]"),
    "index": ("out=runs/x", "sources=[x]"),
}


@pytest.fixture(scope="session")
def root() -> Path:
    """Folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def keys() -> dict[str, set[str]]:
    """Command -> the recipe keys that it knows."""
    result = {
        command: set(describe_keys(config_class(kind))) for command, kind in RECIPE_KINDS.items()
    }
    planned = set().union(*result.values())
    return result | {"plan": planned, "leaks": result["curate"]}


@pytest.fixture(scope="session")
def check_command(keys: dict[str, set[str]]) -> Callable[[str], argparse.Namespace]:
    """Parse a command as it is written: arguments, recipe, keys and their values must be valid."""
    parser = build_parser()

    def check(line: str) -> argparse.Namespace:
        words = shlex.split(line)
        assert words[0] == "dinoforge"
        args, rest = parser.parse_known_args(words[1:])
        overrides = [*getattr(args, "overrides", []), *rest]
        if args.command in {"shard", "index"}:  # other words are sources
            overrides = [word for word in overrides if "=" in word]
        for word in overrides:
            key, equals, _ = word.partition("=")
            assert equals, f"{word} is no argument of {line}"
            kind, _, inner = key.partition(".")
            if args.command == "quickstart":
                command = next(name for name, its in RECIPE_KINDS.items() if its == kind)
                assert inner in keys[command], f"{key} is no key of {line}"
            else:
                assert key in keys[args.command], f"{key} is no key of {line}"
        recipe = getattr(args, "recipe", None)
        if args.command in RECIPE_KINDS and overrides:
            kind = RECIPE_KINDS[args.command]
            given = [word for word in overrides if "..." not in word]
            load_config(config_class(kind), None, [*LEAST[kind], *given])
        if recipe and args.command not in {"shard", "index"} and not re.search(r"[/.=]", recipe):
            kinds = RECIPE_KINDS | {"plan": kind_of(recipe), "leaks": "curation"}
            find_recipe(kinds[args.command], recipe)
        if (
            args.command == "explain"
            and args.image is None
            and not re.fullmatch(r"[A-Z]+", args.what)
        ):
            assert any(args.what in known for known in keys.values()), line
        return args

    return check
