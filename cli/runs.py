"""``dinoforge runs``: all runs below a folder, newest first."""

import argparse
import datetime
import functools
from collections.abc import Sequence
from dataclasses import asdict
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
    from dinoforge.inventory import RunEntry

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
    if args.json:
        print_json([asdict(entry) for entry in shown])
        return 0
    if shown:
        now = datetime.datetime.now(datetime.UTC)
        header = ["run", "kind", "state", "progress", "host", "age", "size"]
        print_table(header, [_row(entry, shown, now) for entry in shown])
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


def _row(entry: "RunEntry", shown: "Sequence[RunEntry]", now: datetime.datetime) -> list[str]:
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
        entry.host,
        "" if age is None else _as_age(age),
        bytes_size(entry.size),
    ]


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
        return f"step {entry.step:,}" + (f" of {entry.steps:,}" if entry.steps else "")
    if entry.kept is not None:
        return f"{counted(entry.kept, 'image')} kept"
    return "" if entry.records is None else counted(entry.records, "record")


def _as_age(seconds: float) -> str:
    """Age in its largest unit, as `docker ps` shows it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


COMMAND = Command(
    sentence="list all runs below a folder: state, progress, age, size",
    examples=(
        "dinoforge runs",
        "dinoforge runs runs/birds --kind train --state running",
        "dinoforge runs /data/runs --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
