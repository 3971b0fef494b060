"""``dinoforge card``: a model card for the Hub from the files of a training."""

import argparse
import contextlib
import functools
from pathlib import Path

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.errors import UsageError

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    add("training", metavar="RUN", help="run folder of dinoforge train, or of a quickstart")
    add(
        "--curation",
        metavar="RUN",
        action="append",
        default=[],
        help="run folder of dinoforge curate (default: the parents of the training); repeatable",
    )
    add(
        "--evaluation",
        metavar="RUN",
        help="run folder of dinoforge evaluate, or a folder of several (default: RUN/evaluation, "
        "else the evaluation of this training beside it)",
    )
    add("--out", metavar="FILE", help="write the card there, usually README.md (default: stdout)")
    about = parser.add_argument_group("what no file of a run knows")
    about.add_argument("--name", default="", help="name of the model (default: of the folder)")
    license_help = "license of the weights, as the Hub names it: apache-2.0, cc-by-4.0, ..."
    about.add_argument("--license", default="", metavar="NAME", help=license_help)
    dataset_help = "data set on the Hub that the images come from; repeatable"
    about.add_argument("--dataset", action="append", default=[], metavar="ID", help=dataset_help)
    number = functools.partial(about.add_argument, type=_positive, metavar="X")
    watts_help = "power of one GPU or of one CPU core in W (default: its data sheet)"
    number("--power-watts", help=watts_help)
    number("--pue", default=1.1, help="power usage effectiveness (default: %(default)s)")
    carbon_help = "kg CO2eq per kWh of the grid (default: %(default)s)"
    number("--carbon-intensity", default=0.385, help=carbon_help)
    add_output_arguments(parser)


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"need a positive number, got {text}")


def _beside(training: Path) -> Path | None:
    """Return the evaluation beside a training that has none below it, if it measured this one."""
    from dinoforge.evaluation.report.facts import find_evaluations
    from dinoforge.runs import read_facts, working_folders

    evaluation = training.absolute().parent / "evaluation"
    parents = read_facts(evaluation).get("parents", [])
    starts = working_folders(evaluation)
    is_parent = any(
        (start / parent).resolve() == training.resolve() for start in starts for parent in parents
    )
    has_records = is_parent and find_evaluations(evaluation)
    return evaluation if has_records and not find_evaluations(training / "evaluation") else None


def _run(args: argparse.Namespace) -> int:
    from dinoforge.evaluation.report.card import CardOptions, make_card
    from dinoforge.evaluation.report.facts import find_evaluations
    from dinoforge.evaluation.report.footprint import Assumptions
    from dinoforge.files import write_text

    training = Path(args.training)
    if not (training / "run.json").is_file() and (training / "training/run.json").is_file():
        training = training / "training"  # of a quickstart
    evaluation = Path(args.evaluation) if args.evaluation else _beside(training)
    if evaluation is not None and not find_evaluations(evaluation):
        do = "give the out=FOLDER of a finished run of `dinoforge evaluate`, or a folder of several"
        raise UsageError(what="no evaluation", where=f"--evaluation {evaluation}", do=do)
    card = make_card(
        training,
        curations=[Path(folder) for folder in args.curation],
        evaluation=evaluation,
        options=CardOptions(
            name=args.name,
            license=args.license,
            datasets=args.dataset,
            assumptions=Assumptions(
                watts=args.power_watts, pue=args.pue, carbon_intensity=args.carbon_intensity
            ),
        ),
    )
    if args.out:
        write_text(Path(args.out), card)
    if args.json:
        print_json({"card": card, "path": args.out or ""})
    else:
        print(args.out or card, end="\n" if args.out else "")
    return 0


COMMAND = Command(
    sentence="write a model card for the Hub from a training, its data and its evaluations",
    examples=(
        "dinoforge card runs/trained --license apache-2.0 --out README.md",
        "dinoforge card runs/quickstart",
        "dinoforge card runs/trained --power-watts 350 --pue 1.3 --carbon-intensity 0.05",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
