"""A read-only copy of the code: a job that is requeued later runs the code that was submitted.

Of a source tree: the tracked files and the untracked ones that git does not ignore, with the commit
and the diff. Of an installed package: its files. The copy is named after its content, so the same
code is copied once.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dinoforge
from dinoforge.errors import UsageError
from dinoforge.files import write_json, write_text
from dinoforge.slurm.store.events import now

__all__ = ["take_snapshot"]

# Folder of a source tree -> its place in the copy, as in the wheel.
_FOLDERS = {"dinoforge": "dinoforge", "configs": "dinoforge/_configs"}
_FOLDERS |= {name: f"dinoforge/{name}" for name in ("cli", "curation", "training", "evaluation")}
_FOLDERS |= {"slurm": "dinoforge/slurm"}


def take_snapshot(folder: Path) -> Path:
    """Copy the running code below ``folder``; returns the copy, to come first in ``PYTHONPATH``.

    Raises
    ------
    UsageError
        If the disk is full or read-only.
    """
    root = Path(dinoforge.__file__).resolve().parent.parent
    files = dict(sorted(_files(root)))
    digest = hashlib.sha256()
    for place, path in files.items():
        data = path.read_bytes()
        digest.update(f"{place}\0{len(data)}\0".encode())
        digest.update(data)
    name = digest.hexdigest()[:12]
    target = folder / name
    if target.is_dir():
        return target
    draft = folder / f".{name}.tmp-{platform.node()}-{os.getpid()}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        for place, path in files.items():
            (draft / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, draft / place)
        facts = {"commit": _git(root, "rev-parse", "HEAD").strip(), "taken": now()}
        write_json(draft / "snapshot.json", facts | {"files": len(files)})
        write_text(draft / "uncommitted.diff", _git(root, "diff", "HEAD", "--", *_FOLDERS))
        # Files only: its owner could not rename or remove a read-only folder.
        for path in draft.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if target.is_dir():
            return target  # another command copied the same code meanwhile
        raise UsageError(
            what=f"cannot copy the code: {error.strerror or error}",
            where=str(folder),
            do="free space there, or set snapshot: false in the profile",
        ) from error
    return target


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the place of each file in the copy, and the file."""
    listed = _git(
        root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_FOLDERS
    )
    for name in filter(None, listed.split("\0")):
        folder, _, rest = name.partition("/")
        path = root / name
        if path.is_file():  # not a link to a folder, and not deleted
            yield f"{_FOLDERS[folder]}/{rest}", path
    if listed:
        return
    packaged = (root / "dinoforge/_configs").is_dir()  # else a source tree without git
    for folder in ("dinoforge",) if packaged else ("dinoforge", "configs"):
        for parent, _, names in os.walk(root / folder, followlinks=True):
            for path in (Path(parent, name) for name in names if not name.endswith(".pyc")):
                yield f"{_FOLDERS[folder]}/{path.relative_to(root / folder).as_posix()}", path


def _git(root: Path, *words: str) -> str:
    """Run git; "" if there is no repository, or no git."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
