"""``dinoforge train``: DINO + iBOT + KoLeo on folders, shards or a curation run."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import (
    Command,
    add_recipe_arguments,
    load,
    local_processes,
    on_change,
    print_json,
    recipe_requests,
    recipe_words,
)
from dinoforge.cli.cluster import goes_to_cluster, refuse_live, submit
from dinoforge.errors import Fault, UsageError

if TYPE_CHECKING:
    from dinoforge.runs import OnChange

__all__ = ["COMMAND", "train_run"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, local=True, update="go on from the last checkpoint under it")
    parser.add_argument(
        "--evaluate",
        action="append",
        default=[],
        metavar="EVAL",
        help="with slurm: measure every kept backbone by this evaluation recipe while it trains; "
        "may be given again",
    )


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "training"):
        return 0
    from dinoforge.training.config import TrainingConfig

    loaded = load(args, "training", TrainingConfig)
    if goes_to_cluster(args):
        evaluations = _evaluations(args.evaluate, Path(loaded.config.out).absolute())
        return submit(args, loaded, evaluations=evaluations)
    if args.evaluate:
        raise UsageError(
            what="--evaluate fits a cluster alone",
            where=f"--on {args.on}",
            do=f"leave it out, then dinoforge evaluate {args.evaluate[0]} "
            f"checkpoint={loaded.config.out}",
        )
    count = local_processes(args.on)
    if count > 1:
        from dinoforge.training.distributed.local_ranks import run_local_ranks

        loaded.config.check_ranks(count)
        return run_local_ranks(count, ["train", *recipe_words(args)])
    summary = train_run(loaded.config, change=on_change(args), origins=loaded.origins)
    if summary is None:
        return 0
    if args.json:
        print_json(summary.as_json())
    else:
        for line in summary.lines():
            print(line)
    return 0


_RENAME = "rename the file: letters, digits, - and _"


def _evaluations(words: Sequence[str], run: Path) -> dict[str, Any]:
    """Resolve the recipes of ``--evaluate``, by name; all faults of all of them at once."""
    from dinoforge.config import find_recipe, load_config
    from dinoforge.evaluation.config import EvaluationConfig

    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for word in words:
        try:
            path = find_recipe("evaluation", word)
            name = path.stem
            if name in found:
                faults.append(Fault(f"two evaluations are called {name}", "--evaluate", _RENAME))
            if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
                faults.append(Fault(f"`{name}` names a folder and jobs", "--evaluate", _RENAME))
            ours = [f"out={run / 'evaluation' / name}", f"checkpoint={run}", "checkpoints=latest"]
            found[name] = load_config(EvaluationConfig, path, ours)
        except UsageError as error:
            faults += error.faults
    if faults:
        raise UsageError(faults=faults)
    return found


def train_run(config: Any, *, change: "OnChange", origins: dict[str, str]) -> Any:
    """Open the run folder and train to the last step; one of several ranks if so launched.

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
    TrainingSummary or None
        Where the training ended; None on all ranks but rank 0.

    Raises
    ------
    UsageError
        What the user can mend: see `Run.open` and `training.loop.train`.
    Interrupted
        If a signal stopped it after a checkpoint: the same command goes on.
    """
    import contextlib

    from dinoforge.runs import Run, run_folders
    from dinoforge.training.build import choose_device, probable_device
    from dinoforge.training.distributed.local_ranks import end_with_launcher
    from dinoforge.training.distributed.ranks import RankInfo, join_ranks, on_rank_0
    from dinoforge.training.loop import train

    end_with_launcher()
    rank_info = RankInfo.of_environment()
    config.check_ranks(rank_info.world_size, rank_info.local_world_size)
    folder = Path(config.out)

    def open_run() -> Run:
        refuse_live(folder)
        return Run.open(
            folder,
            config,
            command="train",
            origins=origins,
            on_change=change,
            parents=run_folders(config.data.paths),
        )

    with join_ranks(probable_device(config), config.parallel.timeout_s) as rank_info:
        choose_device(config)  # joined before: a mistake of all ranks is told once
        with on_rank_0(open_run) or contextlib.nullcontext() as run:
            summary = train(config, folder, None if run is None else run.facts)
    return summary if rank_info.rank == 0 else None


COMMAND = Command(
    sentence="train a ViT with the DINOv2 losses on folders, shards or a curation run",
    examples=(
        "dinoforge train --list",
        "dinoforge train cifar10_cpu out=runs/cifar10 data.paths=[runs/cifar10-curated]",
        "dinoforge train my.yaml optimizer.lr=1e-3 --fresh",
        "dinoforge train my.yaml --on local:2",
        "dinoforge train my.yaml --on slurm:my_cluster.yaml --evaluate my_evaluation.yaml",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
