"""``dinoforge logs``: print the output of the jobs of a run."""

import argparse
from pathlib import Path

from dinoforge.cli.arguments import Command, add_run_argument, print_json

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "partition", nargs="?", default="", metavar="PARTITION", help="12, or STAGE:12"
    )


def _run(args: argparse.Namespace) -> int:
    from dinoforge.slurm.status import find_logs

    paths = find_logs(Path(args.run), args.partition)
    if args.json:
        print_json([str(path) for path in paths])
        return 0
    for path in paths:
        print(f"--- {path}")
        print(path.read_text(encoding="utf-8", errors="replace").rstrip())
    return 0


COMMAND = Command(
    sentence="print logs of a run on a cluster: its own, of failures, or of one partition",
    examples=("dinoforge logs runs/curated", "dinoforge logs runs/curated embed:12"),
    add_arguments=_add_arguments,
    run=_run,
)
