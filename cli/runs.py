"""``dinoforge runs``: all runs below a folder, newest first."""

import argparse
import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.errors import UsageError, some_of

if TYPE_CHECKING:
    from dinoforge.inventory import RunEntry
    from dinoforge.records import Record

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from dinoforge.inventory import KINDS, STATES

    parser.add_argument(
        "folder",
        nargs="?",
        default="runs",
        type=path_argument,
        metavar="FOLDER",
        help="folder of run folders (default: runs)",
    )
    add = functools.partial(parser.add_argument, action="append", default=[])
    add("--kind", choices=KINDS, help="list only runs of this command; repeatable")
    add("--state", choices=STATES, help="list only runs in this state; repeatable")
    best_help = "benchmark of the best export of a training (default: the first k-NN benchmark)"
    parser.add_argument("--best", default="", metavar="BENCHMARK", help=best_help)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.inventory import list_runs

    folder = Path(args.folder)
    if not folder.is_dir():
        do = "name a folder that holds run folders, as given by out=FOLDER"
        raise UsageError(what="no such folder", where=str(folder), do=do)
    entries = list_runs(folder, _Queue().has_jobs)
    shown = [
        entry
        for entry in entries
        if (not args.kind or entry.kind in args.kind)
        and (not args.state or entry.state in args.state)
    ]
    best = _find_best(folder, entries, shown, args.best)
    if args.json:
        print_json([asdict(entry) | {"best": best.get(entry.path)} for entry in shown])
        return 0
    if shown:
        now = datetime.datetime.now(datetime.UTC)
        header = ["run", "kind", "state", "progress", "best", "host", "age", "size"]
        _print_columns([header, *(_row(entry, shown, now, best) for entry in shown)])
    if hidden := len(entries) - len(shown):
        print(f"{hidden:,} more runs do not match --kind and --state")
    if not entries:
        print(f"no run below {folder}")
    return 0


class _Queue:
    """The runs that have jobs in the queue; asked once, and only if a run needs it."""

    def __init__(self) -> None:
        self._names: list[str] | None = None
        self._was_asked = False

    def has_jobs(self, run_id: str) -> bool | None:
        """Whether a run has jobs; None if SLURM does not answer."""
        from dinoforge.slurm.cluster.commands import SlurmError, queue
        from dinoforge.slurm.store.layout import JOB_PREFIX

        if not self._was_asked:
            self._was_asked = True
            try:
                self._names = [job.name for job in queue(JOB_PREFIX, patience_s=0.0)]
            except SlurmError:
                self._names = None
        if self._names is None:
            return None
        return any(name.startswith(f"{JOB_PREFIX}{run_id}-") for name in self._names)


def _find_best(
    folder: Path, entries: "Sequence[RunEntry]", shown: "Sequence[RunEntry]", benchmark: str
) -> dict[str, dict[str, Any]]:
    """Find the best export of every training that is shown: path -> what `best_export` returns.

    Raises a `UsageError` if no evaluation has a number of the benchmark that can be ranked.
    """
    from dinoforge.config.keys import suggest
    from dinoforge.evaluation.report.against import best_export
    from dinoforge.inventory import evaluations_of

    paths = {entry.path for entry in shown}
    records = {
        training: [record for path in evaluations for record in _read_records(folder / path)]
        for training, evaluations in evaluations_of(entries).items()
        if training in paths
    }
    exports = {path: best_export(some, benchmark) for path, some in records.items()}
    best = {path: asdict(export) for path, export in exports.items() if export is not None}
    if benchmark and not best:
        known = sorted({record.benchmark for some in records.values() for record in some})
        raise UsageError(
            what=f"no number of a training to rank{suggest(benchmark, known)}",
            where=f"--best {benchmark}",
            do=f"choose from {some_of(known, 20) or 'none: no training here was evaluated'}",
        )
    return best


def _read_records(evaluation: Path) -> "list[Record]":
    """Read the records of an evaluation; none if they are damaged, which its own row may show."""
    from dinoforge.evaluation.scores import step_of
    from dinoforge.records import RECORDS, read_records
    from dinoforge.steps import step_of_name

    try:
        records = read_records(evaluation / RECORDS)
    except (OSError, UsageError):
        return []
    # That of a file of weights does not know the step; its folder may have the name.
    step = step_of_name(evaluation.name)
    if step is None:
        return records
    return [
        replace(r, settings=r.settings | {"step": step}) if step_of(r) is None else r
        for r in records
    ]


def _row(
    entry: "RunEntry",
    shown: "Sequence[RunEntry]",
    now: datetime.datetime,
    best: "Mapping[str, Mapping[str, Any]]",
) -> list[str]:
    from dinoforge.pages.formatting import bytes_size

    state = entry.state
    if state == "failed" and entry.exit_code:
        state += f" ({entry.exit_code})"
    age = entry.age(now)
    return [
        _indented(entry, shown),
        entry.kind or "?",
        state,
        " - ".join(filter(None, [_progress(entry), entry.why])),
        _best_text(best.get(entry.path)),
        entry.host,
        "" if age is None else _as_age(age),
        bytes_size(entry.size),
    ]


def _print_columns(rows: "Sequence[Sequence[str]]") -> None:
    """Print a line per row, however wide: paths can be copied, and rich takes 1 ms per row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _indented(entry: "RunEntry", shown: "Sequence[RunEntry]") -> str:
    """Path from the run that holds it, if that is shown, indented by its depth."""
    by_path = {other.path: other for other in shown}
    depth, parent = 0, entry.parent
    name = entry.path
    if parent in by_path:
        name = name if parent == "." else name.removeprefix(f"{parent}/")
    while parent in by_path:
        depth, parent = depth + 1, by_path[parent].parent
    return "  " * depth + name


def _progress(entry: "RunEntry") -> str:
    from dinoforge.pages.formatting import counted

    if entry.step is not None:
        return f"{entry.step:,} of {'?' if entry.steps is None else format(entry.steps, ',')} steps"
    if entry.kept is not None:
        return f"{entry.kept:,} kept"
    return "" if entry.records is None else counted(entry.records, "record")


def _best_text(best: "Mapping[str, Any] | None") -> str:
    if best is None:
        return ""
    step = "" if best["step"] is None else f" @ {best['step']:,}"
    others = "" if best["test_sets"] == 1 else f", one of {best['test_sets']} test sets"
    return f"{best['benchmark']} {best['value']:.3f}{step}{others}"


def _as_age(seconds: float) -> str:
    """Age in its largest unit, as `docker ps` shows it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


COMMAND = Command(
    sentence="list all runs below a folder: state, progress, best export, age, size",
    examples=(
        "dinoforge runs",
        "dinoforge runs runs/birds --kind train --best knn/birds",
        "dinoforge runs /data/runs --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
