"""The skeleton of ``curate``, ``train``, ``evaluate``, ``shard``: from the words to the result."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dinoforge.cli.arguments import (
    RERUN,
    add_launch_arguments,
    add_output_arguments,
    add_recipe_choice,
    config_class,
    load,
    print_json,
    recipe_requests,
)
from dinoforge.cli.cluster.launch import goes_to_cluster, refuse_live, submit
from dinoforge.errors import UsageError
from dinoforge.remote import is_url
from dinoforge.remote.urls import is_stream

if TYPE_CHECKING:
    from dinoforge.config import Config, Loaded
    from dinoforge.runs import OnChange, Run

__all__ = ["RecipeCommand", "open_run", "sort_words"]

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class RecipeCommand:
    """A command that carries out a recipe; used as a `Command`."""

    kind: str  # of the recipe: curation, training, evaluation, sharding
    sentence: str
    examples: Sequence[str]
    # (args, recipe) -> result, or the exit code of processes that have printed theirs
    execute: Callable[[argparse.Namespace, "Loaded[Any]"], Any]
    as_json: Callable[[Any], Any]
    # prints a result; the path is the run folder
    show: Callable[[Any, Path, argparse.Namespace], None]
    sources: Callable[[Any], Sequence[str]]  # recipe -> paths that it reads images from
    written: Sequence[str] = ("cache",)  # folders of a run in which it writes images
    update: str = RERUN  # what --update does
    # recipe -> recipe, before anything is done with it: values that other runs determine
    resolve: Callable[[Any], Any] = lambda config: config
    pipeline: str = ""  # import path of the pipeline of stages; "": one job of ranks
    add_own_arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    # changes args before the recipe is read: other words than a recipe and `key=value`
    read_words: Callable[[argparse.Namespace], None] = lambda _: None
    # (args, recipe) -> recipes of evaluations that a cluster runs beside it, by name
    evaluations: Callable[[argparse.Namespace, Any], Mapping[str, Any]] = lambda *_: {}

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add RECIPE, ``key=value`` and all flags."""
        add_recipe_choice(parser)
        add_launch_arguments(parser, cluster=True, update=self.update)
        add_output_arguments(parser)
        self.add_own_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """List, show or copy recipes; submit a run; or run here and print the result."""
        from dinoforge.sources.outputs import check_out

        if recipe_requests(args, self.kind):
            return 0
        self.read_words(args)
        loaded: Loaded[Any] = load(args, self.kind, config_class(self.kind))
        loaded = replace(loaded, config=self.resolve(loaded.config))
        check_out(self.sources(loaded.config), loaded.config.out, self.written)
        if goes_to_cluster(args):
            if any(map(is_stream, self.sources(loaded.config))):
                raise UsageError(
                    what="a stream is a source, and the nodes of a cluster cannot read it",
                    where="recipe",
                    do="make shards of it first, on this machine: dinoforge shard",
                )
            return submit(args, loaded, self.pipeline, self.evaluations(args, loaded.config))
        result = self.execute(args, loaded)
        if isinstance(result, int):
            return result
        if args.json:
            print_json(self.as_json(result))
        else:
            self.show(result, Path(loaded.config.out), args)
        return 0


def open_run(
    command: str, loaded: "Loaded[Any]", change: "OnChange", inputs: Sequence[str] = ()
) -> "Run":
    """Open the run folder ``out`` of a recipe; see `Run.open`.

    Run folders among ``inputs`` are recorded as its parents. Raises a `UsageError` if jobs in the
    queue of a cluster write this run.
    """
    from dinoforge.runs import Run, run_folders

    folder = Path(loaded.config.out)
    refuse_live(folder)
    return Run.open(
        folder,
        loaded.config,
        command=command,
        origins=loaded.origins,
        on_change=change,
        parents=run_folders(inputs),
    )


def sort_words(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Sort the words of a command whose sources need no key: a YAML file is the recipe.

    ``key=value`` is a key, all others are sources. ``more`` are the ``key=value`` of flags.
    """
    words = [word for word in (args.recipe, *args.overrides) if word is not None]
    pairs = [
        word
        for word in words
        if "=" in word and not (is_url(word) or is_stream(word) or Path(word).exists())
    ]
    others = [word for word in words if word not in pairs]
    recipes = [word for word in others if word.endswith((".yaml", ".yml")) and not is_stream(word)]
    sources = [word for word in others if word not in recipes[:1]]
    if sources:
        pairs.insert(0, f"sources={json.dumps(sources)}")
    pairs += more
    args.recipe, args.overrides = (recipes or [None])[0], pairs
    if args.recipe is None and pairs:
        args.recipe, args.overrides = pairs[0], pairs[1:]
