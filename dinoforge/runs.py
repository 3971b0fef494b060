"""A run is a folder: what was asked (``config.yaml``), how it went (``run.json``), the log.

The same command in the same folder goes on where it stopped; a changed recipe is refused and the
changed keys are named, unless ``--update`` says that what depends on them may run again. One
writer at a time: a lock that dies with its process.
"""

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import filelock
import yaml

from dinoforge import __version__
from dinoforge.config import changed_keys, config_yaml, to_plain
from dinoforge.errors import Interrupted, UsageError
from dinoforge.files import hash_json, write_json, write_text
from dinoforge.log import log_to_folder, stop_logging

__all__ = ["Run", "git_commit", "recipe_changes", "record_end", "run_folders", "versions"]

_log = logging.getLogger(__name__)

OnChange = Literal["refuse", "update", "fresh"]

# Where the results lie does not change them: may differ between two starts of a run. A config
# class may name more keys (or whole blocks) of this kind as LAUNCH_KEYS.
_LAUNCH_KEYS = ("out",)


def versions() -> dict[str, str]:
    """Versions of what results depend on, for the run record and the report."""
    names = ("torch", "numpy", "pillow", "pyarrow", "omegaconf", "faiss-cpu", "faiss-gpu")
    found = {"dinoforge": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Commit of the source tree that runs, with ``+`` when it has changes; "" for a wheel."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@dataclass
class Run:
    """An open run folder; use as a context manager, made by `Run.open`."""

    folder: Path
    command: str
    config: Any
    plain: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    handed_over: bool = False  # jobs of a cluster go on with it: it has not ended
    _lock: filelock.BaseFileLock | None = None
    _handler: logging.Handler | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        config: Any,
        *,
        command: str,
        origins: Mapping[str, str] | None = None,
        on_change: OnChange = "refuse",
        parents: Sequence[Path] = (),
    ) -> "Run":
        """Create the run folder or go on with it.

        Parameters
        ----------
        folder : Path
            The run folder; made when missing.
        config : dataclass
            The resolved recipe.
        command : str
            ``curate``, ``train``, ...; a folder holds one kind of run.
        origins : mapping, optional
            Origin of each value that is not a default, written beside it.
        on_change : str
            What a changed recipe does: ``refuse`` (exit 2), ``update`` (accept it; stages
            that read a changed key run again), ``fresh`` (move the old folder aside).
        parents : sequence of Path
            Run folders whose results this run reads.

        Raises
        ------
        UsageError
            If the folder cannot be written, is in use, or holds another recipe.
        """
        folder = Path(folder)
        plain = to_plain(config)
        _make_writable(folder)
        lock = _lock(folder)
        if on_change == "fresh" and (folder / "run.json").exists():
            # The lock goes along with the old folder: a run that is being written stays.
            _move_aside(folder, lock)
            _make_writable(folder)
            lock = _lock(folder)
        try:
            _check_unchanged(folder, config, command, on_change)
            write_text(folder / "config.yaml", config_yaml(config, origins))
            run = cls(folder, command, config, plain, _lock=lock)
            run.facts = _facts(command, plain, parents) | {"earlier": _earlier_starts(folder)}
            write_json(folder / "run.json", run.facts)
            run._handler = log_to_folder(folder / "log")
        except BaseException:
            lock.release()
            raise
        return run

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = Interrupted.exit_code if isinstance(error, KeyboardInterrupt) else 1
        code = 0 if error is None else getattr(error, "exit_code", stopped)
        if error is not None and code == 1:
            _log.debug("the run failed", exc_info=error)
        if error is not None or not self.handed_over:
            self.facts |= {"stopped": _now(), "exit_code": code}
        try:
            write_json(self.folder / "run.json", self.facts)
        except UsageError:
            if error is None:
                raise  # else the disk was full before: the first error says where
        finally:
            if self._handler is not None:
                stop_logging(self._handler)
            if self._lock is not None:
                self._lock.release()


def record_end(folder: Path, exit_code: int) -> None:
    """Write into ``run.json`` how a run ended that was handed over to jobs."""
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    write_json(folder / "run.json", facts | {"stopped": _now(), "exit_code": exit_code})


def _facts(command: str, plain: dict[str, Any], parents: Sequence[Path]) -> dict[str, Any]:
    return {
        "command": command,
        "argv": sys.argv[1:],
        "config_hash": hash_json(plain),
        "versions": versions(),
        "commit": git_commit(),
        "host": platform.node(),
        "cores": os.cpu_count() or 1,
        "parents": [str(parent) for parent in parents],
        "started": _now(),
        "stopped": None,
        "exit_code": None,
    }


def _earlier_starts(folder: Path) -> list[dict[str, Any]]:
    """Read what ``run.json`` says of earlier starts, oldest first: the results are theirs too."""
    try:
        last = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [*last.pop("earlier", []), last]


def run_folders(paths: Sequence[Path | str]) -> list[Path]:
    """Those of some paths that are run folders, each once."""
    folders = dict.fromkeys(Path(path) for path in paths if str(path))
    # `Path.is_file` raises for long names.
    return [f for f in folders if os.path.isfile(f / "run.json")]  # noqa: PTH113


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _make_writable(folder: Path) -> None:
    probe = folder / f".probe.tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            what=f"run folder is not writable: {error.strerror}",
            where=str(folder),
            do="choose another folder with out=FOLDER",
        ) from error


def _lock(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            what="another process is writing this run",
            where=str(folder),
            do="wait for it, stop it, or choose another folder with out=FOLDER",
        ) from error
    return lock


def recipe_changes(folder: Path, config: Any) -> list[str]:
    """Name the keys that decide results and differ from the recipe of a run folder, if any."""
    try:
        old = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    free = getattr(config, "LAUNCH_KEYS", _LAUNCH_KEYS)
    return [
        key
        for key in changed_keys(old, to_plain(config))
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def _check_unchanged(folder: Path, config: Any, command: str, on_change: OnChange) -> None:
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if facts.get("command") != command:
        raise UsageError(
            what=f"the folder holds a run of `dinoforge {facts.get('command')}`",
            where=str(folder),
            do="choose another folder with out=FOLDER",
        )
    changed = recipe_changes(folder, config)
    if changed and on_change == "refuse" and _has_results(folder):
        named = ", ".join(f"`{key}`" for key in changed)
        state = "finished" if facts.get("exit_code") == 0 else "unfinished"
        raise UsageError(
            what=f"the recipe of this {state} run changed: {named}",
            where=str(folder),
            do="choose another folder with out=FOLDER, or add --update (run again what "
            "depends on these keys) or --fresh (move the old run aside)",
        )


def _has_results(folder: Path) -> bool:
    """Tell whether there is anything to lose: a start that failed at once leaves only notes."""
    notes = {"run.json", "config.yaml", ".lock", "plan.json", "recipe.yaml"}
    return any(
        path.name not in notes and path.parent.name != "log" and path.is_file()
        for top in folder.iterdir()
        if top.name != "slurm"  # what a cluster keeps of its jobs
        for path in (top, *top.rglob("*"))
    )


def _move_aside(folder: Path, lock: filelock.BaseFileLock) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise UsageError(
            what=f"the old run cannot be moved aside: {error.strerror}",
            where=str(folder),
            do="move it yourself, or choose another folder with out=FOLDER",
        ) from error
    finally:
        lock.release()
    _log.info("moved the old run to %s", aside)
