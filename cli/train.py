"""``dinoforge train``: DINO + iBOT + KoLeo on folders, shards or a curation run."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import on_change
from dinoforge.cli.recipe_command import RecipeCommand, open_run
from dinoforge.errors import Fault, UsageError

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.evaluation.config import EvaluationConfig
    from dinoforge.runs import OnChange, Run
    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.loop import TrainingSummary

__all__ = ["COMMAND", "train_run"]


def train_run(loaded: "Loaded[TrainingConfig]", *, change: "OnChange") -> "TrainingSummary | None":
    """Open the run folder and train to the last step; see `training.loop.train`.

    Joins the other ranks if it was launched as one of several; returns None on all but rank 0.
    ``change`` is the ``on_change`` of `Run.open`.
    """
    import contextlib

    from dinoforge.training.build import choose_device, probable_device
    from dinoforge.training.distributed.join import join_ranks
    from dinoforge.training.distributed.local_ranks import end_with_launcher
    from dinoforge.training.distributed.ranks import RankInfo, on_rank_0
    from dinoforge.training.loop import train

    end_with_launcher()
    config = loaded.config
    rank_info = RankInfo.of_environment()
    config.check_ranks(rank_info.world_size, rank_info.local_world_size)

    def open_folder() -> "Run":
        return open_run("train", loaded, change, config.data.all_paths)

    with join_ranks(probable_device(config), config.parallel.timeout_s) as rank_info:
        choose_device(config)  # after joining: an error common to all ranks is reported once
        with on_rank_0(open_folder) or contextlib.nullcontext() as run:
            summary = train(config, Path(config.out), None if run is None else run.facts)
    return summary if rank_info.rank == 0 else None


def _add_own_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--evaluate",
        action="append",
        default=[],
        metavar="EVAL",
        help="with slurm: evaluate every exported backbone with this recipe during the training; "
        "may be repeated",
    )


def _execute(args: argparse.Namespace, loaded: "Loaded[TrainingConfig]") -> "TrainingSummary | int":
    if args.evaluate:
        raise UsageError(
            what="--evaluate works only with --on slurm:PROFILE",
            where=f"--on {args.on}",
            do=f"remove it; then run dinoforge evaluate {args.evaluate[0]} "
            f"checkpoint={loaded.config.out}",
        )
    place = re.fullmatch(r"in-process|local:([1-9]\d{0,3})", args.on, re.ASCII)
    if place is None:
        raise UsageError(
            what=f"unknown place to run `{args.on}`",
            where="--on",
            do="write in-process, local:N with 1 to 9999 processes, or slurm:PROFILE",
        )
    count = int(place[1] or 1)
    if count == 1:
        summary = train_run(loaded, change=on_change(args))
        return 0 if summary is None else summary
    from dinoforge.training.distributed.local_ranks import run_local_ranks

    loaded.config.check_ranks(count)
    words = [word for word in (args.recipe, *args.overrides) if word is not None]
    words += [f"--{name}" for name in ("update", "fresh", "json") if getattr(args, name)]
    words += {-1: ["-q"], 1: ["-v"]}.get(args.verbosity, [])
    return run_local_ranks(count, ["train", *words])


def _resolve(config: "TrainingConfig") -> "TrainingConfig":
    from dinoforge.training.data.curated_parts import resolve_parts
    from dinoforge.training.frozen_teacher import recipe_of_frozen

    if config.teacher.frozen:
        recipe_of_frozen(config)  # before anything is submitted
    return resolve_parts(config)


def _show(summary: "TrainingSummary", *_: object) -> None:
    print("\n".join(summary.lines()))


def _evaluations(
    args: argparse.Namespace, config: "TrainingConfig"
) -> "dict[str, EvaluationConfig]":
    """Resolve the recipes of ``--evaluate``, by name; reports the faults of all at once."""
    from dinoforge.config import find_recipe, load_config
    from dinoforge.evaluation.config import EvaluationConfig

    run = Path(config.out).absolute()
    configs: dict[str, EvaluationConfig] = {}
    faults: list[Fault] = []
    do = "rename the file: letters, digits, - and _"
    for recipe in args.evaluate:
        try:
            path = find_recipe("evaluation", recipe)
            name = path.stem
            if name in configs:
                faults.append(Fault(f"two evaluations are called {name}", "--evaluate", do))
            if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
                what = f"`{name}` cannot name a folder and jobs"
                faults.append(Fault(what, "--evaluate", do))
            paths = [f"out={run / 'evaluation' / name}", f"checkpoint={run}", "checkpoints=latest"]
            configs[name] = load_config(EvaluationConfig, path, paths)
        except UsageError as error:
            faults += error.faults
    if faults:
        raise UsageError(faults=faults)
    return configs


COMMAND = RecipeCommand(
    kind="training",
    sentence="train a ViT with the DINOv2 losses on folders, shards or a curation run",
    examples=(
        "dinoforge train --list",
        "dinoforge train cifar10_cpu out=runs/cifar10 data.paths=[runs/cifar10-curated]",
        "dinoforge train my.yaml optimizer.lr=1e-3 --fresh",
        "dinoforge train my.yaml --on local:2",
        "dinoforge train my.yaml --on slurm:my_cluster.yaml --evaluate my_evaluation.yaml",
    ),
    update="resume from the last checkpoint with it",
    add_own_arguments=_add_own_arguments,
    execute=_execute,
    resolve=_resolve,
    as_json=lambda summary: summary.as_json(),
    sources=lambda config: config.data.all_paths,
    show=_show,
    evaluations=_evaluations,
)
