"""All runs below a folder: kind, state, progress, size; read from their files alone.

Nothing is written and nothing raises: a run whose files cannot be read is listed as such.
"""

import datetime
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinoforge.errors import Interrupted, first_line
from dinoforge.files import path_text, read_object, read_regular
from dinoforge.records import RECORDS
from dinoforge.steps import reached_step

__all__ = ["KINDS", "STATES", "RunEntry", "evaluations_of", "list_runs"]

KINDS = ("curate", "train", "evaluate", "shard", "index", "embed", "attention", "leaks")
STATES = (
    "running",  # a process holds its lock, or jobs are in the queue
    "finished",
    "failed",
    "interrupted",  # by a signal or a time limit: the same command resumes it
    "killed",  # it recorded no end, and nobody holds its lock
    "waiting",  # on a cluster: `dinoforge retry` continues it
    "cancelled",
    "damaged",  # run.json is unreadable
    "unknown",  # SLURM does not answer, or a folder may not be read
)

_ON_CLUSTER = {"waiting": "waiting", "stopped": "failed", "cancelled": "cancelled"}
_STEPS = re.compile(r"^steps: (\d+)", re.MULTILINE)
_TAIL = 65536  # bytes; a line of metrics has about one thousand

InQueue = Callable[[str], bool | None]  # id of a run on a cluster -> has jobs there; None: unknown


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run folder; what is unknown is None or empty."""

    path: str  # relative to the folder that was searched; "." for that folder
    parent: str = ""  # path of the run whose folder holds it
    kind: str = ""  # one of `KINDS`
    state: str  # one of `STATES`
    exit_code: int | None = None
    why: str = ""  # of a state that is damaged or unknown; what could not be read
    step: int | None = None  # of a training: updates done
    steps: int | None = None  # and planned
    kept: int | None = None  # of a finished curation: images
    records: int | None = None  # of a finished evaluation
    parents: tuple[str, ...] = ()  # absolute paths of the runs that it reads, when it started
    run_folder: str = ""  # its own at that time
    host: str = ""
    started: str = ""  # the last start, ISO 8601
    stopped: str = ""
    size: int = 0  # bytes on disk, nested runs included; each file counts once, links do not

    def age(self, now: datetime.datetime) -> float | None:
        """Seconds since its last start."""
        try:
            return (now - datetime.datetime.fromisoformat(self.started)).total_seconds()
        except (ValueError, TypeError):  # none, or without a time zone
            return None


def list_runs(folder: Path, in_queue: InQueue = lambda _: None) -> list[RunEntry]:
    """List the runs in and below a folder, newest first; nested ones follow the run they are in.

    Raises an `OSError` only if the folder itself cannot be read.
    """
    with os.scandir(folder):
        pass
    places = _Search(folder).run()
    entries = [_read(folder, place, in_queue) for place in places]
    children: dict[str, list[RunEntry]] = {}
    for entry in entries:
        children.setdefault(entry.parent, []).append(entry)

    def in_order(parent: str) -> Iterator[RunEntry]:
        newest_first = sorted(children.get(parent, []), key=lambda e: e.path)
        for entry in sorted(newest_first, key=lambda e: e.started, reverse=True):
            yield entry
            yield from in_order(entry.path)

    return list(in_order(""))


def evaluations_of(entries: Sequence[RunEntry]) -> dict[str, list[str]]:
    """Find the evaluations with records of every training: paths of `RunEntry`, in their order.

    An evaluation names its training as a parent, by the path that it had then, or lies inside it.
    """
    trainings = {entry.path: entry for entry in entries if entry.kind == "train"}
    by_folder = {entry.run_folder: path for path, entry in trainings.items()}
    evaluations: dict[str, list[str]] = {path: [] for path in trainings}
    for entry in entries:
        if entry.kind == "evaluate" and entry.records is not None:
            named = [by_folder[parent] for parent in entry.parents if parent in by_folder]
            for path in dict.fromkeys([*named, *([entry.parent] if not named else [])]):
                if path in evaluations:
                    evaluations[path].append(entry.path)
    return evaluations


@dataclass
class _Place:
    path: str  # relative
    parent: "_Place | None"
    is_run: bool
    size: int = 0
    refused: str = ""  # why a folder could not be read


class _Search:
    """Walks all folders once: finds runs, and adds up what their files take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: list[_Place] = []
        self._counted: set[tuple[int, int]] = set()  # files with several links

    def run(self) -> list[_Place]:
        pending: list[tuple[str, _Place | None]] = [("", None)]
        while pending:
            path, run = pending.pop()
            try:
                with os.scandir(self.folder / path) as listing:
                    entries = list(listing)
            except OSError as error:
                self._refuse(path, run, error)
                continue
            if any(entry.name == "run.json" for entry in entries):
                run = _Place(path, run, is_run=True)
                self.places.append(run)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append((os.path.join(path, entry.name), run))  # noqa: PTH118 - speed
                elif run is not None:
                    self._count(entry, run)
        return self.places

    def _count(self, entry: "os.DirEntry[str]", run: _Place) -> None:
        try:
            stat = entry.stat(follow_symlinks=False)
        except OSError:  # removed just now
            return
        if stat.st_nlink > 1:
            if (stat.st_dev, stat.st_ino) in self._counted:
                return
            self._counted.add((stat.st_dev, stat.st_ino))
        place: _Place | None = run
        while place is not None:
            place.size += stat.st_blocks * 512
            place = place.parent

    def _refuse(self, path: str, run: _Place | None, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # removed just now
            return
        text = f"{error.strerror}: {path}"
        if run is None:
            self.places.append(_Place(path, None, is_run=False, refused=text))
        else:
            run.refused = run.refused or text


def _read(folder: Path, place: _Place, in_queue: InQueue) -> RunEntry:
    entry = RunEntry(
        path=path_text(place.path or "."),
        parent=path_text(place.parent.path or ".") if place.parent else "",
        state="unknown",
        why=path_text(place.refused),
        size=place.size,
    )
    if not place.is_run:
        return entry
    run = folder / place.path
    try:
        facts = json.loads(read_regular(run / "run.json"))
        if not isinstance(facts, dict):
            raise TypeError("not an object")  # noqa: TRY301 - one report for all damage
        code = facts.get("exit_code")
        entry = replace(
            entry,
            exit_code=None if code is None else int(code),
            kind=_text(facts, "command"),
            parents=tuple(
                os.path.normpath(os.path.join(_text(facts, "working_folder"), str(parent)))  # noqa: PTH118
                for parent in facts.get("parents") or ()
            ),
            run_folder=_text(facts, "run_folder"),
            host=_text(facts, "host"),
            started=_text(facts, "started"),
            stopped=_text(facts, "stopped"),
        )
        state, why = _state(run, entry, in_queue)
        return replace(entry, state=state, why=entry.why or why, **_progress(run, entry.kind))
    except PermissionError as error:
        return replace(entry, why=f"{error.strerror}: {path_text(os.fsdecode(error.filename))}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        return replace(entry, state="damaged", why=first_line(error))


def _text(facts: dict[str, Any], name: str) -> str:
    return str(facts.get(name) or "")


def _state(run: Path, entry: RunEntry, in_queue: InQueue) -> tuple[str, str]:
    if not entry.stopped and _is_locked(run):
        return "running", ""
    on_cluster = read_object(run / "slurm/state.json").get("state")
    has_jobs: bool | None = False
    if on_cluster == "running":
        has_jobs = in_queue(str(read_object(run / "slurm/launch.json").get("run_id")))
    if has_jobs:
        return "running", ""
    if entry.stopped:
        by_code = {0: "finished", Interrupted.exit_code: "interrupted"}
        return by_code.get(entry.exit_code or 0, "failed"), ""
    if on_cluster == "running":
        return ("unknown", "SLURM does not answer") if has_jobs is None else ("waiting", "")
    return _ON_CLUSTER.get(str(on_cluster), "killed"), ""


def _is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run folder; without a lock file nobody does."""
    try:
        lock = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        # Shared, and released at once: a run that starts in this microsecond would be refused.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _progress(run: Path, kind: str) -> dict[str, Any]:
    if kind == "train":
        planned = _STEPS.search(_read_text(run / "config.yaml"))
        return {
            "step": max(_last_step(run / "metrics.jsonl"), reached_step(run)),
            "steps": int(planned[1]) if planned else None,
        }
    if kind == "curate":
        from dinoforge.curated import summary_path  # imports pyarrow, which help texts do without

        kept = read_object(summary_path(run)).get("kept")
        return {"kept": kept if isinstance(kept, int) else None}
    if kind == "evaluate" and (run / RECORDS).is_file():
        return {"records": _read_text(run / RECORDS).count("\n")}
    return {}


def _last_step(metrics: Path) -> int:
    """Step of the last whole line; a killed process may leave half of one."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    whole = next((line for line in reversed(lines) if line.endswith(b"}")), b"{}")
    return int(json.loads(whole).get("step", 0))


def _read_text(path: Path) -> str:
    try:
        return read_regular(path).decode(errors="replace")
    except OSError:
        return ""
