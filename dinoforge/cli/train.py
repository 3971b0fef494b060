"""``dinoforge train``: DINO + iBOT + KoLeo on folders, shards or a curation run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import (
    Command,
    add_recipe_arguments,
    load,
    on_change,
    print_json,
    recipe_requests,
)

if TYPE_CHECKING:
    from dinoforge.runs import OnChange

__all__ = ["COMMAND", "train_run"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, update="go on from the last checkpoint under it")


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "training"):
        return 0
    from training.config import TrainingConfig

    loaded = load(args, "training", TrainingConfig)
    summary = train_run(loaded.config, change=on_change(args), origins=loaded.origins)
    if args.json:
        print_json(summary.as_json())
    else:
        for line in summary.lines():
            print(line)
    return 0


def train_run(config: Any, *, change: "OnChange", origins: dict[str, str]) -> Any:
    """Open the run folder and train to the last step.

    Parameters
    ----------
    config : TrainingConfig
        The resolved recipe; ``config.out`` is the run folder.
    change : str
        What a changed recipe does to an existing run; see `Run.open`.
    origins : dict
        Origin of each value that is not a default.

    Returns
    -------
    TrainingSummary
        Where the training ended.

    Raises
    ------
    UsageError
        What the user can mend: see `Run.open` and `training.loop.train`.
    Interrupted
        If a signal stopped it after a checkpoint: the same command goes on.
    """
    from dinoforge.runs import Run, run_folders
    from training.loop import train

    with Run.open(
        Path(config.out),
        config,
        command="train",
        origins=origins,
        on_change=change,
        parents=run_folders(config.data.paths),
    ) as run:
        return train(config, run)


COMMAND = Command(
    sentence="train a ViT with the DINOv2 losses on folders, shards or a curation run",
    examples=(
        "dinoforge train --list",
        "dinoforge train cifar10_cpu out=runs/cifar10 data.paths=[runs/cifar10-curated]",
        "dinoforge train my.yaml optimizer.lr=1e-3 --fresh",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
