"""``dinoforge retry``: start a run on a cluster again, or take it on by hand."""

import argparse
from pathlib import Path

from dinoforge.cli.arguments import Command, add_output_arguments

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, as given by out=FOLDER")
    parser.add_argument("--wait", action="store_true", help="wait for the end")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.cluster import print_state
    from dinoforge.slurm.control import retry_run, wait_for_run

    run = Path(args.run)
    state = retry_run(run)
    if args.wait and state.state == "running":
        state = wait_for_run(run, lambda _: None)
    return print_state(state, run, as_json=args.json)


COMMAND = Command(
    sentence="start a run on a cluster again: what is done stays, what failed is forgiven",
    examples=("dinoforge retry runs/curated", "dinoforge retry runs/curated --wait"),
    add_arguments=_add_arguments,
    run=_run,
)
