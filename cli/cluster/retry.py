"""``dinoforge retry``: restart a run on a cluster, or advance it by hand."""

import argparse
from pathlib import Path

from dinoforge.cli.arguments import Command, add_run_argument

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for the end")
    add_run_argument(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.cluster.launch import print_state
    from dinoforge.slurm.control import retry_run

    run = Path(args.run)
    return print_state(retry_run(run), run, wait=args.wait, as_json=args.json)


COMMAND = Command(
    sentence="restart a run on a cluster: finished work stays, earlier failures no longer count",
    examples=("dinoforge retry runs/curated", "dinoforge retry runs/curated --wait"),
    add_arguments=_add_arguments,
    run=_run,
)
