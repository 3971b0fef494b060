"""``dinoforge calibrate``: mark pairs as same or different, get a threshold with its precision."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_output_arguments,
    path_argument,
    print_json,
    print_table,
)
from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from dinoforge.curation.calibration.calibration import Calibration, Result

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    add("run", metavar="RUN", help="run folder of a finished dinoforge curate")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.99,
        metavar="P",
        help="precision that the threshold must reach (default: 0.99)",
    )
    for name, default, what in (
        ("--bins", 12, "bins of similarity from duplicates.floor to 1"),
        ("--per-bin", 20, "pairs per bin"),
        ("--seed", 0, "which pairs are drawn"),
        ("--port", 0, "port of the page; 0: any that is free"),
    ):
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    add("--export", metavar="FILE", help="write the pairs and their labels as CSV; no page")
    add("--import", dest="read", metavar="FILE", help="read labels from such a CSV; no page")
    parser.add_argument("--fresh", action="store_true", help="drop the answers, draw other pairs")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.curation.calibration.calibration import Calibration

    for name, is_valid, allowed in (
        ("precision", 0 < args.precision <= 1, "above 0, at most 1"),
        ("bins", 1 <= args.bins <= 1000, "1 to 1000"),
        ("per_bin", args.per_bin >= 1, "1 or more"),
        ("seed", args.seed >= 0, "0 or more"),
        ("port", 0 <= args.port < 1 << 16, "0 to 65535"),
    ):
        if not is_valid:
            flag = f"--{name.replace('_', '-')}"
            what = f"{flag} is {getattr(args, name)}"
            raise UsageError(what=what, where="command line", do=f"give {allowed}")
    calibration = Calibration.open(
        Path(args.run),
        target=args.precision,
        bins=args.bins,
        per_bin=args.per_bin,
        seed=args.seed,
        fresh=args.fresh,
    )
    try:
        if args.read:
            calibration.import_csv(Path(args.read))
        if args.export:
            calibration.export_csv(Path(args.export))
        if not (args.read or args.export):
            _serve(calibration, args)
        result = calibration.write()
    finally:
        calibration.close()
    if args.json:
        print_json(result.as_json())
    else:
        _show(result, args)
    return 0


def _serve(calibration: "Calibration", args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, which is how it ends: no failure."""
    import sys

    from dinoforge.curation.calibration.server import PairServer

    with PairServer(calibration, args.port) as server:
        print(f"open {server.url}  (this machine only; Ctrl-C ends)", file=sys.stderr, flush=True)
        try:
            server.serve()
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _show(result: "Result", args: argparse.Namespace) -> None:
    rows = [
        [
            f"{one.low:g}",
            one.pairs,
            f"{one.same} of {one.same + one.different}",
            _estimate(one.precision, one.interval),
            _estimate(above.precision, above.precision_interval),
            _estimate(above.recall, above.recall_interval),
        ]
        for one, above in zip(result.bins, result.thresholds, strict=True)
    ]
    header = ["similarity above", "pairs", "same", "precision in the bin", "above it", "recall"]
    print_table(header, rows[::-1])
    print(f"{result.labeled} of {result.sampled} pairs labeled")
    if result.threshold is None:
        print(f"no threshold reaches a precision of {result.target:g} so far")
    else:
        print(f"threshold for a precision of {result.target:g}: {result.threshold:g}")
        print(f"use it: dinoforge curate RECIPE duplicates.calibrated={args.run} --update")


def _estimate(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


COMMAND = Command(
    sentence="mark pairs of a curation as same or different and get a threshold",
    examples=(
        "dinoforge calibrate runs/curated",
        "dinoforge calibrate runs/curated --precision 0.95 --per-bin 40",
        "dinoforge calibrate runs/curated --import labels.csv",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
