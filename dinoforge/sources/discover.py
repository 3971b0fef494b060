"""Discover the images and tars behind paths, in an order that no file system decides."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

from braceexpand import braceexpand

from dinoforge.curated import shards_folder, summary_path
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json
from dinoforge.images.formats import SNIFF_BYTES, has_image_suffix, sniff
from dinoforge.shards.index import Problem, problem, summarize_reasons
from dinoforge.sources.classes import CLASS_LISTS, find_class_list

__all__ = ["SOURCE_REASONS", "ImageFile", "SourceFiles", "discover_files"]

SOURCE_REASONS: Mapping[str, str] = {
    "other_file": "neither an image nor a tar, by name and by content: skipped",
    "unreadable": "it cannot be opened or read",
}

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in its own file; its key is its path below ``root``."""

    path: str
    root: str
    size: int
    mtime_ns: int


@dataclass
class SourceFiles:
    """Files behind some paths: sorted within each path, paths in the order given."""

    items: list[ImageFile | str] = field(default_factory=list)  # a str is the path of a tar
    problems: list[Problem] = field(default_factory=list)
    roots: dict[str, str] = field(default_factory=dict)  # tar -> folder that it was found in

    def fingerprint(self) -> str:
        """Hash names, sizes and times of all files: changes when a file is added or replaced.

        Lists of classes count, too.
        """
        rows: list[list[str | int]] = []
        for item in self.items:
            if isinstance(item, ImageFile):
                rows.append([item.path, item.size, item.mtime_ns])
            else:
                rows.append([item, *(_size_and_mtime(item) or (-1, -1))])
        folders = {(Path(tar).parent, Path(root)) for tar, root in self.roots.items()}
        lists = [find_class_list(*folder) for folder in sorted(folders)]
        rows += [[classes.path, classes.space] for classes in lists if classes is not None]
        return hash_json(rows)


def discover_files(paths: Sequence[str]) -> SourceFiles:
    """Find images and tars; paths are files, folders, patterns and curation runs.

    Raises
    ------
    UsageError
        Lists every path that is missing or contains neither an image nor a tar.
    """
    sources = SourceFiles()
    faults: list[Fault] = []
    for path in paths:
        try:
            one = _discover_path(path)
        except UsageError as error:
            faults.extend(error.faults)
            continue
        if not one.items:
            what = f"no images and no tars{summarize_reasons(one.problems)}"
            do = "give a folder, a tar or a pattern that contains images"
            faults.append(Fault(what, path, do))
        sources.items.extend(one.items)
        sources.roots = one.roots | sources.roots
        sources.problems.extend(one.problems)
    if faults:
        raise UsageError(faults=faults)
    return sources


def _discover_path(path: str) -> SourceFiles:
    names = [path] if _exists(path) else _expand(path)
    sources = SourceFiles()
    for name in names or [path]:
        if not _exists(name):
            raise UsageError(what="no such file or folder", where=name, do="check the path")
        if Path(name).is_dir():
            _add_folder(_shards_of_run(Path(name)), sources)
        else:
            _add_file(name, str(Path(name).parent), sources)
    return sources


def _exists(path: str) -> bool:
    """Return whether the path exists; ``os.path``, because `Path` raises for long names."""
    return bool(path) and os.path.exists(path)  # noqa: PTH110


def _expand(pattern: str) -> list[str]:
    """Expand braces as the shell does (missing files are kept), then ``*``, ``?`` and ``[``."""
    try:
        names = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        if names := _matches(pattern):
            return names
        raise UsageError(
            what="no such file or folder, and its braces are unbalanced",
            where=pattern,
            do="write a range as {000000..000004}",
        ) from error
    return [match for name in names for match in (_matches(name) if has_magic(name) else [name])]


def _matches(pattern: str) -> list[str]:
    return sorted(glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns, too


def _shards_of_run(folder: Path) -> Path:
    """Replace the run folder of a curation by the folder of its shards."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder
    if not isinstance(facts, dict) or facts.get("command") != "curate":
        return folder
    summary = summary_path(folder)
    if not summary.is_file():
        raise UsageError(
            what="the curation is not finished",
            where=str(folder),
            do="rerun its command; it resumes where it stopped",
        )
    if not json.loads(summary.read_text(encoding="utf-8"))["kept"]:
        raise UsageError(
            what="the curation kept no image",
            where=str(folder),
            do="change its recipe: `dinoforge report` and `dinoforge explain RUN IMAGE` show why",
        )
    return shards_folder(folder)


def _add_folder(folder: Path, sources: SourceFiles) -> None:
    """Walk a folder in the order of names; follow links, but visit no folder twice."""
    visited: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        where = str(error.filename or folder)
        sources.problems.append(problem(where, "", "unreadable", error.strerror or str(error)))

    for here, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        present = set(files)
        for name in sorted(files):
            if not name.startswith(".") and not _belongs_to_tars(name, present):
                _add_file(os.path.join(here, name), str(folder), sources)  # noqa: PTH118 - hot


def _belongs_to_tars(name: str, present: set[str]) -> bool:
    """Return whether a file is read together with tars: a list of classes or a checksum file."""
    stem, _, suffix = name.rpartition(".")
    return name in CLASS_LISTS or (suffix == "json" and f"{stem}.tar" in present)


def _add_file(path: str, root: str, sources: SourceFiles) -> None:
    if path.lower().endswith(_TAR_SUFFIXES):
        sources.items.append(path)
        sources.roots[path] = root
    elif (facts := _size_and_mtime(path)) is None:
        sources.problems.append(problem(path, "", "unreadable", "no file behind the name"))
    elif has_image_suffix(path) or _has_image_signature(path):
        sources.items.append(ImageFile(path, root, *facts))
    else:
        sources.problems.append(problem(path, "", "other_file"))


def _size_and_mtime(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _has_image_signature(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return sniff(file.read(SNIFF_BYTES)) is not None
    except OSError:
        return False
