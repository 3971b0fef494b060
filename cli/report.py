"""``dinoforge report``: one self-contained HTML page from the runs' own files."""

import argparse
import functools
from pathlib import Path

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.errors import UsageError

__all__ = ["COMMAND"]

_COMMANDS = {"curation": "curate", "training": "train", "evaluation": "evaluate"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    add("out", metavar="FOLDER", help="folder for report.html and report.json")
    add("--curation", metavar="RUN", help="run folder of dinoforge curate")
    add("--training", metavar="RUN", help="run folder of dinoforge train")
    add(
        "--evaluation",
        metavar="RUN",
        help="run folder of dinoforge evaluate, or a folder of several: TRAINING/evaluation (the "
        "default with --training) or TRAINING/evaluation/NAME",
    )
    parser.add_argument("--title", default="", help="title of the page")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.evaluation.report.build import make_report
    from dinoforge.evaluation.report.facts import find_evaluations
    from dinoforge.runs import read_facts

    runs = {"curation": args.curation, "training": args.training, "evaluation": args.evaluation}
    given = {name: Path(folder) for name, folder in runs.items() if folder}
    if not given:
        raise UsageError(
            what="no run given",
            where="command line",
            do="give at least one of --curation RUN, --training RUN, --evaluation RUN",
        )
    for name, folder in given.items():
        command = read_facts(folder).get("command", _COMMANDS[name])
        if command != _COMMANDS[name]:
            raise UsageError(
                what=f"the folder holds a run of `dinoforge {command}`",
                where=f"--{name} {folder}",
                do=f"give the out=FOLDER of a finished run of `dinoforge {_COMMANDS[name]}`",
            )
        if (folder / "run.json").is_file():
            continue
        if name == "evaluation" and find_evaluations(folder):
            continue
        raise UsageError(
            what=f"no {name} run", where=str(folder), do="give the out=FOLDER of a finished run"
        )
    summary = make_report(Path(args.out), **given, title=args.title, left_out=())
    if args.json:
        print_json({"html": str(summary.html), "json": str(summary.json)})
    else:
        print(summary.html)
    return 0


COMMAND = Command(
    sentence="write one self-contained HTML report (and report.json) from finished runs",
    examples=(
        "dinoforge report runs/report --curation runs/curated --training runs/trained",
        "dinoforge report runs/report --evaluation runs/evaluated --title 'ViT-S on birds'",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
