"""``dinoforge cancel``: cancel every job of a run on a cluster."""

import argparse
from pathlib import Path

from dinoforge.cli.arguments import Command, add_run_argument, print_json

__all__ = ["COMMAND"]


def _run(args: argparse.Namespace) -> int:
    from dinoforge.config.paths import quote_path
    from dinoforge.slurm.control import cancel_run

    count = cancel_run(Path(args.run))
    if args.json:
        print_json({"cancelled": count})
    else:
        print(f"{count} jobs cancelled; to continue: dinoforge retry {quote_path(Path(args.run))}")
    return 0


COMMAND = Command(
    sentence="cancel every job of a run on a cluster; finished work stays",
    examples=("dinoforge cancel runs/curated",),
    add_arguments=add_run_argument,
    run=_run,
)
