"""``dinoforge curate``: deduplicate, keep benchmarks out, retrieve and balance, write shards."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import on_change, print_table
from dinoforge.cli.recipe_command import RecipeCommand, open_run

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.summary import CurationSummary
    from dinoforge.runs import OnChange

__all__ = ["COMMAND", "curate_run"]


def curate_run(
    loaded: "Loaded[CurationConfig]", *, on: str, change: "OnChange"
) -> "CurationSummary":
    """Open the run folder and finish the curation in it; see `curation.pipeline.curate`.

    ``on`` is ``in-process`` or ``local:N``; ``change`` is the ``on_change`` of `Run.open`.
    """
    from dinoforge.curation.pipeline import curate
    from dinoforge.curation.takedowns import add_takedowns, read_takedowns
    from dinoforge.stages import make_executor

    # A new start in the same folder does not bring back what was taken down.
    takedowns = read_takedowns(Path(loaded.config.out))
    executor = make_executor(on)
    try:
        with open_run("curate", loaded, change, [loaded.config.base]) as run:
            if takedowns:
                add_takedowns(run.folder, takedowns.values())
            return curate(loaded.config, run, executor)
    finally:
        executor.close()


def _execute(args: argparse.Namespace, loaded: "Loaded[CurationConfig]") -> "CurationSummary":
    return curate_run(loaded, on=args.on, change=on_change(args))


def _resolve(config: "CurationConfig") -> "CurationConfig":
    if not config.duplicates.calibrated:
        return config
    from dinoforge.curation.calibration.calibration import apply_calibration

    return apply_calibration(config)


def _show(summary: Any, folder: Path, *_: object) -> None:
    from dinoforge.config.paths import quote_path
    from dinoforge.curated import ledger_path, parts_path, quality_page, shards_folder

    print_table(["images", "count"], [[row.label, row.count] for row in summary.funnel()])
    print(f"shards: {shards_folder(folder) if summary.shards else 'none'}")
    if parts_path(folder).exists():
        print(f"to train on its parts: data.parts=[{{run: {folder}}}]")
    print(f"ledger: {ledger_path(folder)}")
    if quality_page(folder).exists():
        print(f"quality: {quality_page(folder)}")
    print(f"why an image was dropped: dinoforge explain {quote_path(folder)} IMAGE")


COMMAND = RecipeCommand(
    kind="curation",
    sentence="curate an image pool: deduplicate, decontaminate, retrieve, write shards",
    examples=(
        "dinoforge curate --list",
        "dinoforge curate cifar10_cpu out=runs/cifar10-curated --on local:2",
        "dinoforge curate my.yaml duplicates.threshold=0.97 --update",
    ),
    pipeline="dinoforge.curation.pipeline:PIPELINE",
    execute=_execute,
    resolve=_resolve,
    as_json=lambda summary: summary.as_json(),
    sources=lambda config: [
        *(path for source in config.sources for path in source.paths_in(config.data.root)),
        *filter(None, [config.base]),
    ],
    written=("curation", "shards"),
    show=_show,
)
