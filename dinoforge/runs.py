"""A run is a folder: the recipe (``config.yaml``), the record (``run.json``), the log.

The same command in the same folder resumes the run. A changed recipe is refused, with the changed
keys, unless ``--update`` allows to rerun what depends on them. One process writes at a time: a
lock is released when its process ends.
"""

import contextlib
import datetime
import importlib.metadata
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
from dinoforge.config import Config, changed_keys, config_yaml, to_plain
from dinoforge.errors import Interrupted, UsageError, damaged, first_line
from dinoforge.files import hash_json, read_object, read_regular, write_json, write_text
from dinoforge.log import log_to_folder, stop_logging

__all__ = [
    "Run",
    "git_commit",
    "now",
    "read_facts",
    "read_recipe",
    "recipe_changes",
    "record_end",
    "record_facts",
    "run_folders",
    "succeeded",
    "versions",
    "working_folders",
]

_log = logging.getLogger(__name__)

OnChange = Literal["refuse", "update", "fresh"]

# Keys and sections that do not change results: they may differ between two starts of a run. A
# config class may define its own LAUNCH_KEYS.
_LAUNCH_KEYS = ("out",)


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    names = ("torch", "numpy", "pillow", "pyarrow", "omegaconf", "faiss-cpu", "faiss-gpu")
    installed = {"dinoforge": __version__, "python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def git_commit() -> str:
    """Return the commit of the source tree, with ``+`` if it has changes; "" for a wheel."""
    tree = Path(__file__).resolve().parents[1]
    if not (tree / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip()
    return ""


@dataclass
class Run:
    """An open run folder; use as a context manager, made by `Run.open`."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)  # written to ``run.json``
    handed_over: bool = False  # jobs of a cluster continue the run: it has not ended
    _lock: filelock.BaseFileLock | None = None
    _handler: logging.Handler | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        config: Config,
        *,
        command: str,
        origins: Mapping[str, str] | None = None,
        on_change: OnChange = "refuse",
        parents: Sequence[Path] = (),
    ) -> "Run":
        """Create the run folder or resume the run in it.

        Parameters
        ----------
        folder : Path
            Created if missing.
        config : dataclass
            The resolved recipe.
        command : str
            ``curate``, ``train``, ...; a folder holds one kind of run.
        origins : mapping, optional
            Origin of each value that is not a default, for the comments of ``config.yaml``.
        on_change : str
            What a changed recipe does: ``refuse`` (exit 2), ``update`` (accept it and rerun the
            stages that read a changed key), ``fresh`` (rename the old folder).
        parents : sequence of Path
            Run folders whose results this run reads.

        Raises
        ------
        UsageError
            If the folder cannot be written, is in use, or holds a run with another recipe.
        """
        folder = Path(folder)
        lock = _lock(folder)
        if on_change == "fresh" and (folder / "run.json").exists():
            # Locked before it is renamed: a run that is being written is refused, not moved.
            _rename_old(folder, lock)
            lock = _lock(folder)
        try:
            _check_unchanged(folder, config, command, on_change)
            write_text(folder / "config.yaml", config_yaml(config, origins))
            return cls._begin(folder, lock, _facts(folder, command, to_plain(config), parents))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def start(cls, folder: Path, *, command: str, settings: Mapping[str, Any]) -> "Run":
        """Open the folder of a command that has no recipe: what it writes is written again.

        Raises
        ------
        UsageError
            If the folder cannot be written, is in use, or holds a run of another command.
        """
        lock = _lock(folder)
        try:
            _check_command(folder, command)
            return cls._begin(folder, lock, _facts(folder, command, settings, ()))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begin(cls, folder: Path, lock: filelock.BaseFileLock, facts: dict[str, Any]) -> "Run":
        write_json(folder / "run.json", facts)
        return cls(folder, facts, _lock=lock, _handler=log_to_folder(folder / "log"))

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
            self.facts |= {"stopped": now(), "exit_code": code}
        try:
            # The file also has what `record_facts` added.
            write_json(self.folder / "run.json", read_facts(self.folder) | self.facts)
        except UsageError:
            if error is None:
                raise  # else the first error has reported the full disk
        finally:
            if self._handler is not None:
                stop_logging(self._handler)
            if self._lock is not None:
                self._lock.release()


def record_end(folder: Path, exit_code: int) -> None:
    """Record in ``run.json`` the end of a run that was handed over to jobs."""
    record_facts(folder, stopped=now(), exit_code=exit_code)


def record_facts(folder: Path, **facts: Any) -> None:
    """Add to ``run.json``, whoever opened the run; without one there is nothing to add to."""
    if known := read_facts(folder):
        write_json(folder / "run.json", known | facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; empty if there is none."""
    return read_object(folder / "run.json")


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read the resolved recipe of a run; empty if there is none.

    Raises
    ------
    UsageError
        If the file is damaged.
    """
    path = folder / "config.yaml"
    try:
        plain = yaml.safe_load(read_regular(path).decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise damaged(path, error) from error
    if not isinstance(plain, dict):
        raise damaged(path, TypeError("no keys and values"))
    return plain


def working_folders(folder: Path) -> list[Path]:
    """List the folders where relative paths of a run's recipe may start, the likeliest first.

    Where its command ran, that folder moved together with the run, and the one of this process. A
    start from another folder may have failed: earlier ones count, too.
    """
    facts = read_facts(folder)
    folders = []
    for start in (facts, *reversed(facts.get("earlier", []))):
        if "working_folder" in start:
            way = os.path.relpath(start["working_folder"], start["run_folder"])
            moved = os.path.normpath(folder.absolute() / way)
            folders += [Path(start["working_folder"]), Path(moved)]
    return list(dict.fromkeys([*folders, Path.cwd()]))


def succeeded(folder: Path) -> bool:
    """Return whether ``run.json`` records that a command ended with exit code 0."""
    return read_facts(folder).get("exit_code") == 0


def _facts(
    folder: Path, command: str, settings: Mapping[str, Any], parents: Sequence[Path]
) -> dict[str, Any]:
    last = read_facts(folder)
    return {
        "command": command,
        # Earlier starts, oldest first: they contributed to the results.
        "earlier": [*last.pop("earlier", []), last] if last else [],
        "argv": sys.argv[1:],
        "working_folder": str(Path.cwd()),  # relative paths of the recipe start there
        "run_folder": str(folder.absolute()),
        "config_hash": hash_json(settings),
        "versions": versions(),
        "commit": git_commit(),
        "host": platform.node(),
        "cores": os.cpu_count() or 1,
        "parents": [str(parent) for parent in parents],
        "started": now(),
        "stopped": None,
        "exit_code": None,
    }


def run_folders(paths: Sequence[Path | str]) -> list[Path]:
    """Return the run folders among paths, each once.

    For an exported backbone its training, for shards the curation that wrote them.
    """
    folders = [Path(path) for path in paths if str(path)]
    runs = [f.parents[2] if f.parts[-3:-2] == ("export",) else f for f in folders]
    runs = [f.parents[1] if f.parts[-2:-1] == ("shards",) else f for f in runs]
    # `Path.is_file` raises for long names.
    return [f for f in dict.fromkeys(runs) if os.path.isfile(f / "run.json")]  # noqa: PTH113


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _lock(folder: Path) -> filelock.BaseFileLock:
    """Make a run folder, check that it is writable, and lock it."""
    probe = folder / f".probe.tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        is_lost = any(p.is_symlink() and not p.exists() for p in (folder, *folder.parents))
        why = "a link that leads nowhere" if is_lost else error.strerror
        raise UsageError(
            what=f"run folder is not writable: {why}",
            where=str(folder),
            do="choose another folder with out=FOLDER",
        ) from error
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            what="another process is writing this run",
            where=str(folder),
            do="wait for it, stop it, or choose another folder with out=FOLDER",
        ) from error
    except (OSError, NotImplementedError) as error:  # some network file systems
        raise UsageError(
            what=f"the run folder cannot be locked: {first_line(error)}",
            where=str(folder),
            do="choose a folder on a file system that has locks with out=FOLDER",
        ) from error
    return lock


def recipe_changes(folder: Path, config: Config) -> list[str]:
    """List the keys that affect results and differ from the recipe of a run folder."""
    try:
        old = read_recipe(folder)
    except UsageError:
        return []
    if not old:
        return []
    free = tuple(f"{key}." for key in getattr(config, "LAUNCH_KEYS", _LAUNCH_KEYS))
    changed = changed_keys(old, to_plain(config))
    return [key for key in changed if not f"{key}.".startswith(free)]


def _check_command(folder: Path, command: str) -> None:
    record = folder / "run.json"
    if record.exists() and not record.is_file():
        what, do = "`run.json` is not a regular file", "choose another folder with out=FOLDER"
        raise UsageError(what=what, where=str(folder), do=do)
    facts = read_facts(folder)
    if facts and facts.get("command") != command:
        raise UsageError(
            what=f"the folder holds a run of `dinoforge {facts.get('command')}`",
            where=str(folder),
            do="choose another folder with out=FOLDER",
        )


def _check_unchanged(folder: Path, config: Config, command: str, on_change: OnChange) -> None:
    _check_command(folder, command)
    facts = read_facts(folder)
    if not facts:
        return
    changed = recipe_changes(folder, config)
    if changed and on_change == "refuse" and _has_results(folder):
        keys = ", ".join(f"`{key}`" for key in changed)
        state = "finished" if facts.get("exit_code") == 0 else "unfinished"
        raise UsageError(
            what=f"the recipe of this {state} run changed: {keys}",
            where=str(folder),
            do="choose another folder with out=FOLDER, or add --update (rerun what depends on "
            "these keys) or --fresh (rename the old folder)",
        )


def _has_results(folder: Path) -> bool:
    """Return whether there is anything to lose.

    A start that failed at once leaves only notes, and folders of what is made again (CACHEDIR.TAG).
    """
    notes = {"run.json", "config.yaml", ".lock", "plan.json", "recipe.yaml", "problems.csv"}
    for here, folders, files in os.walk(folder):
        if here == str(folder):
            folders[:] = [name for name in folders if name != "slurm"]  # files of jobs on a cluster
        if "CACHEDIR.TAG" in files:
            folders.clear()
        elif Path(here).name != "log" and not notes.issuperset(files):
            return True
    return False


def _rename_old(folder: Path, lock: filelock.BaseFileLock) -> None:
    if Path.cwd().is_relative_to(folder.resolve()):
        lock.release()
        raise UsageError(
            what="the working folder, or one above it, cannot be renamed",
            where=str(folder),
            do="start the command from another folder, or choose another with out=FOLDER",
        )
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise UsageError(
            what=f"the folder of the old run cannot be renamed: {error.strerror}",
            where=str(folder),
            do="rename it yourself, or choose another folder with out=FOLDER",
        ) from error
    finally:
        lock.release()
    _log.info("renamed the old run folder to %s", aside)
