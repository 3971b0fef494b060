"""``dinoforge curate``: deduplicate, keep benchmarks out, retrieve and balance, write shards."""

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

__all__ = ["COMMAND", "curate_run"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, local=True)


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "curation"):
        return 0
    from dinoforge.curation.config import CurationConfig

    loaded = load(args, "curation", CurationConfig)
    if goes_to_cluster(args):
        return submit(args, loaded, pipeline="dinoforge.curation.pipeline:PIPELINE")
    summary = curate_run(loaded.config, on=args.on, change=on_change(args), origins=loaded.origins)
    if args.json:
        print_json(summary.as_json())
    else:
        _print_summary(summary, Path(loaded.config.out))
    return 0


def curate_run(config: Any, *, on: str, change: "OnChange", origins: dict[str, str]) -> Any:
    """Open the run folder and bring the curation in it to its end.

    Parameters
    ----------
    config : CurationConfig
        The resolved recipe; ``config.out`` is the run folder.
    on : str
        Where partitions run: ``in-process`` or ``local:N``.
    change : str
        What a changed recipe does to an existing run; see `Run.open`.
    origins : dict
        Origin of each value that is not a default.

    Returns
    -------
    CurationSummary
        What was done, in numbers.

    Raises
    ------
    UsageError
        What the user can mend: see `Run.open` and `curation.pipeline.curate`.
    """
    from dinoforge.curation.pipeline import curate
    from dinoforge.runs import Run
    from dinoforge.stages import make_executor

    executor = make_executor(on)
    refuse_live(Path(config.out))
    try:
        with Run.open(
            Path(config.out), config, command="curate", origins=origins, on_change=change
        ) as run:
            return curate(config, run, executor)
    finally:
        executor.close()


def _print_summary(summary: Any, folder: Path) -> None:
    """Print the funnel and where the results are."""
    from dinoforge.curated import ledger_path, shards_folder

    print_table(["images", "count"], [[row.label, row.count] for row in summary.funnel()])
    print(f"shards: {shards_folder(folder)}")
    print(f"ledger: {ledger_path(folder)}")
    print(f"why an image was dropped: dinoforge explain {folder} IMAGE")


COMMAND = Command(
    sentence="curate an image pool: deduplicate, decontaminate, retrieve, write shards",
    examples=(
        "dinoforge curate --list",
        "dinoforge curate cifar10_cpu out=runs/cifar10-curated --on local:2",
        "dinoforge curate my.yaml duplicates.threshold=0.97 --update",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
