"""``dinoforge compare``: runs in one table, with paired differences and their significance."""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_output_arguments,
    make_console,
    path_argument,
    print_json,
)

if TYPE_CHECKING:
    from dinoforge.evaluation.compare.comparison import Comparison

__all__ = ["COMMAND"]

_FORMATS = ("terminal", "markdown", "latex", "csv", "json", "html", "mieb")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="an evaluation, a folder of several, a training that was evaluated, or a "
        "records.jsonl; runs of one NAME are seeds of a model",
    )
    baseline = "model that the differences are against (default: the first), or none"
    parser.add_argument("--baseline", default="", metavar="NAME", help=baseline)
    shown = parser.add_argument_group("what is shown", "each may be given several times")
    several = functools.partial(shown.add_argument, action="append", default=[])
    several("--benchmark", metavar="PATTERN", help="benchmarks, as in 'knn/*'")
    several("--features", metavar="NAME", help="kinds of features: cls, patch_mean, ...")
    several("--k", metavar="K", type=int, help="neighbors of k-NN")
    several("--metric", metavar="NAME", help="metrics (default: the first of every benchmark)")
    no_published = "leave out rows with numbers of publications"
    parser.add_argument("--no-published", action="store_true", help=no_published)
    parser.add_argument("--format", choices=_FORMATS, default="terminal", help="on stdout")
    out = "write all formats into a folder"
    parser.add_argument("--out", type=path_argument, metavar="FOLDER", help=out)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.evaluation.compare.build import compare
    from dinoforge.evaluation.compare.columns import Filters
    from dinoforge.evaluation.compare.files import write_comparison
    from dinoforge.evaluation.compare.published import with_published
    from dinoforge.training.config import TrainingConfig

    comparison = compare(
        args.runs,
        baseline=args.baseline,
        filters=Filters(
            benchmarks=tuple(args.benchmark),
            features=tuple(args.features),
            ks=tuple(args.k),
            metrics=tuple(args.metric),
        ),
        free_keys=("seed", *TrainingConfig.LAUNCH_KEYS),
    )
    if not args.no_published:
        comparison = with_published(comparison)
    _print(comparison, "json" if args.json else args.format)
    if args.out:
        out = Path(args.out)
        files = (path.relative_to(out).parts[0] for path in write_comparison(comparison, out))
        print(f"{out}: {', '.join(dict.fromkeys(files))}", file=sys.stderr)
    return 0


def _print(comparison: "Comparison", form: str) -> None:
    from dinoforge.evaluation.compare.files import FORMATS
    from dinoforge.evaluation.compare.mieb import mieb_files

    if form == "mieb":
        print_json(mieb_files(comparison))
    elif form != "terminal":
        print(FORMATS[form](comparison), end="")
    else:
        from dinoforge.evaluation.compare.terminal import print_comparison

        print_comparison(comparison, make_console(width=100))


COMMAND = Command(
    sentence="compare runs in one table: intervals, paired differences, seeds, steps",
    examples=(
        "dinoforge compare runs/seed0 runs/seed1 runs/quickstart",
        "dinoforge compare ours=runs/a ours=runs/b old=runs/c --baseline old --out runs/compared",
        "dinoforge compare runs/a runs/b --benchmark 'knn/*' --format latex",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
