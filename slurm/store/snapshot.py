"""A read-only copy of the code per submission: a requeue after the weekend runs Friday's code.

From a source tree: the tracked files and the untracked ones that git does not ignore, with the
commit and the difference to it. From installed packages: their files. Named by content, so that
the same code is copied once.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import dinoforge
from dinoforge.errors import UsageError
from dinoforge.files import write_json, write_text
from dinoforge.slurm.store.layout import now

__all__ = ["take_snapshot"]

# Folder of a source tree -> its place in the copy, as in the wheel.
_FOLDERS = {
    "dinoforge": "dinoforge",
    **{
        name: f"dinoforge/{name}" for name in ("cli", "curation", "training", "evaluation", "slurm")
    },
    "configs": "dinoforge/_configs",
}


def take_snapshot(folder: Path) -> Path:
    """Copy the running code below ``folder``; returns the copy, to be first in ``PYTHONPATH``.

    Raises
    ------
    UsageError
        If the disk is full or read-only.
    """
    root = Path(dinoforge.__file__).resolve().parent.parent
    files = dict(sorted(_files(root)))
    name = _content_hash(files)[:12]
    target = folder / name
    if target.is_dir():
        return target
    draft = folder / f".{name}.tmp-{platform.node()}-{os.getpid()}"
    try:
        _copy(files, draft)
        facts = {"commit": _git(root, "rev-parse", "HEAD").strip(), "taken": now()}
        write_json(draft / "snapshot.json", facts | {"files": len(files)})
        write_text(draft / "uncommitted.diff", _git(root, "diff", "HEAD", "--", *_FOLDERS))
        _make_read_only(draft)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if target.is_dir():
            return target  # another command took the same one meanwhile
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
    if not listed:
        for parent, _, names in os.walk(root / "dinoforge", followlinks=True):
            paths = [Path(parent, name) for name in names if not name.endswith(".pyc")]
            yield from ((path.relative_to(root).as_posix(), path) for path in paths)


def _content_hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for place, path in files.items():
        data = path.read_bytes()
        digest.update(f"{place}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _copy(files: Mapping[str, Path], draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    for place, path in files.items():
        (draft / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, draft / place)


def _make_read_only(folder: Path) -> None:
    # Files only: a folder without write permission could not be renamed or removed by its owner.
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def _git(root: Path, *words: str) -> str:
    """Ask git; "" where there is no repository, or no git."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
