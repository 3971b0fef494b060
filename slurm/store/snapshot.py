"""A read-only copy of the code: a job that is requeued later runs the code that was submitted.

Of a source tree: the files that git does not ignore, with the commit and the diff. Of an installed
package: its files. The copy is named after its content, so the same code is copied once.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import dinoforge
from dinoforge.errors import UsageError
from dinoforge.files import hash_json, sha256_file, temporary_name, write_json, write_text
from dinoforge.runs import now

__all__ = ["take_snapshot"]

_FOLDERS = ("dinoforge", "configs", "cli", "curation", "training", "evaluation", "demo", "slurm")


def take_snapshot(folder: Path) -> Path:
    """Copy the running code below ``folder``; returns the copy, to come first in ``PYTHONPATH``.

    Raises `UsageError` if the disk is full or read-only.
    """
    root = Path(dinoforge.__file__).resolve().parent.parent
    files = {_place(name): root / name for name in _names(root)}
    target = folder / hash_json({place: sha256_file(path) for place, path in files.items()})[:12]
    if target.is_dir():
        return target
    draft = temporary_name(target)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        for place, path in files.items():
            copy = draft / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o444)  # files only: its owner could not remove a read-only folder
        commit = _git(root, "rev-parse", "HEAD").strip()
        facts = {"commit": commit, "taken": now(), "files": len(files)}
        write_json(draft / "snapshot.json", facts)
        write_text(draft / "uncommitted.diff", _git(root, "diff", "HEAD", "--", *_FOLDERS))
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not target.is_dir():  # else another command copied the same code meanwhile
            raise UsageError(
                what=f"cannot copy the code: {error.strerror or error}",
                where=str(folder),
                do="free space there, or set snapshot: false in the profile",
            ) from error
    return target


def _names(root: Path) -> list[str]:
    """List the files of the code, relative to ``root``."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_FOLDERS]
    if listed := _git(root, *listing):
        # Neither deleted ones nor links to folders.
        return [name for name in listed.split("\0") if (root / name).is_file()]
    packaged = (root / "dinoforge/_configs").is_dir()  # else a source tree without git
    return [
        Path(parent, name).relative_to(root).as_posix()
        for folder in (["dinoforge"] if packaged else ["dinoforge", "configs"])
        for parent, _, names in os.walk(root / folder, followlinks=True)
        for name in names
        if not name.endswith(".pyc")
    ]


def _place(name: str) -> str:
    """Place of a file in the copy, which is laid out like a wheel."""
    if name.startswith("dinoforge/"):
        return name
    return f"dinoforge/{'_' if name.startswith('configs/') else ''}{name}"


def _git(root: Path, *words: str) -> str:
    """Run git; "" if there is no repository, or no git."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), *words]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, timeout=60, check=True)
            return done.stdout.decode(errors="replace")
    return ""
