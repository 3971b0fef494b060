"""``dinoforge evaluate``: k-NN, logistic regression and label-free metrics, with intervals."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import (
    Command,
    add_recipe_arguments,
    load,
    on_change,
    print_json,
    print_table,
    recipe_requests,
)
from dinoforge.cli.cluster import goes_to_cluster, refuse_live, submit

if TYPE_CHECKING:
    from dinoforge.runs import OnChange

__all__ = ["COMMAND", "evaluate_run"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "evaluation"):
        return 0
    from dinoforge.evaluation.config import EvaluationConfig

    loaded = load(args, "evaluation", EvaluationConfig)
    if goes_to_cluster(args):
        return submit(args, loaded)
    records = evaluate_run(loaded.config, change=on_change(args), origins=loaded.origins)
    if args.json:
        print_json([record.as_json() for record in records])
    else:
        _print_records(records)
        print(f"records: {Path(loaded.config.out) / 'records.jsonl'}")
    return 0


def evaluate_run(config: Any, *, change: "OnChange", origins: dict[str, str]) -> Any:
    """Open the run folder and measure every record that the recipe asks for.

    Parameters
    ----------
    config : EvaluationConfig
        The resolved recipe; ``config.out`` is the run folder.
    change : str
        What a changed recipe does to an existing run; see `Run.open`.
    origins : dict
        Origin of each value that is not a default.

    Returns
    -------
    list of Record
        Everything measured; also in ``records.jsonl`` of the run folder.

    Raises
    ------
    UsageError
        What the user can mend: see `Run.open` and `evaluation.suite.evaluate`.
    """
    from dinoforge.evaluation.suite import evaluate
    from dinoforge.runs import Run, run_folders

    refuse_live(Path(config.out))
    with Run.open(
        Path(config.out),
        config,
        command="evaluate",
        origins=origins,
        on_change=change,
        parents=run_folders([config.checkpoint, *config.train, *config.test]),
    ) as run:
        return evaluate(config, run.folder)


def _print_records(records: Any) -> None:
    """Print every record as a row."""
    rows = []
    for record in records:
        low_high = "" if record.interval is None else _interval(record.interval)
        settings = ", ".join(f"{name}={value}" for name, value in record.settings.items())
        rows.append(
            [
                record.benchmark,
                record.model,
                record.metric,
                f"{record.value:.4f}",
                low_high,
                settings,
            ]
        )
    print_table(["benchmark", "model", "metric", "value", "95 %", "settings"], rows)


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} .. {interval[1]:.4f}"


COMMAND = Command(
    sentence="measure a checkpoint: k-NN, logistic regression, signs of collapse, with intervals",
    examples=(
        "dinoforge evaluate --list",
        "dinoforge evaluate cifar10_cpu checkpoint=runs/cifar10 out=runs/cifar10-eval",
        "dinoforge evaluate cifar10_cpu checkpoint=runs/cifar10 out=runs/cifar10-eval --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
