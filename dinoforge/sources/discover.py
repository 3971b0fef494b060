"""From the paths of a recipe to files: images and tars, in an order that no file system decides."""

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinoforge.curated import shards_folder, summary_path
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json
from dinoforge.images import SNIFF_BYTES, has_image_suffix, sniff
from dinoforge.shards import Problem, in_words, problem

__all__ = ["SOURCE_REASONS", "ImageFile", "SourceFiles", "discover_files", "is_tar_name"]

SOURCE_REASONS: Mapping[str, str] = {
    "other_file": "neither an image nor a tar, by name and by content: skipped",
    "unreadable": "it cannot be opened or read",
}

_CLASS_LISTS = ("classes.txt", "classes.tsv")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file of its own, and the folder below which its key begins."""

    path: str
    root: str
    size: int
    mtime_ns: int


@dataclass
class SourceFiles:
    """Everything that some paths lead to; sorted inside each path, paths in the order given."""

    items: list[ImageFile | str] = field(default_factory=list)  # a str is the path of a tar
    problems: list[Problem] = field(default_factory=list)

    @property
    def images(self) -> list[ImageFile]:
        """The images in files of their own."""
        return [item for item in self.items if isinstance(item, ImageFile)]

    @property
    def tars(self) -> list[str]:
        """Paths of the tars."""
        return [item for item in self.items if isinstance(item, str)]

    def fingerprint(self) -> str:
        """Hash names, sizes and times of all files: changes when a file is added or replaced."""
        rows: list[list[str | int]] = []
        for item in self.items:
            if isinstance(item, ImageFile):
                rows.append([item.path, item.size, item.mtime_ns])
            else:
                facts = _facts(item)
                rows.append([item, *(facts or (-1, -1))])
        return hash_json(rows)


def is_tar_name(name: str) -> bool:
    """Tell whether a file name ends like a tar's, compressed ones included."""
    return name.lower().endswith(_TAR_SUFFIXES)


def discover_files(paths: Sequence[str]) -> SourceFiles:
    """Find images and tars.

    Parameters
    ----------
    paths : sequence of str
        Files, folders, patterns, curation runs; relative to the working folder.

    Raises
    ------
    UsageError
        All paths that are missing or hold neither an image nor a tar.
    """
    sources = SourceFiles()
    faults: list[Fault] = []
    for path in paths:
        try:
            found = _one(path)
        except UsageError as error:
            faults.extend(error.faults)
            continue
        if not found.items:
            faults.append(
                Fault(
                    f"no images and no tars{in_words(found.problems)}",
                    path,
                    "give a folder, a tar or a pattern that holds images",
                )
            )
        sources.items.extend(found.items)
        sources.problems.extend(found.problems)
    if faults:
        raise UsageError(faults=faults)
    return sources


def _one(path: str) -> SourceFiles:
    names = [path] if _exists(path) else list(_expanded(path))
    if not names:
        raise UsageError(what="no such file or folder", where=path, do="check the path")
    sources = SourceFiles()
    for name in names:
        if not _exists(name):
            raise UsageError(what="no such file or folder", where=name, do="check the path")
        if Path(name).is_dir():
            _add_folder(_shards_of_run(Path(name)), sources)
        else:
            _add_file(name, str(Path(name).parent), sources)
    return sources


def _exists(path: str) -> bool:
    """Tell whether there is such a file; ``os.path``, because `Path` raises for long names."""
    return bool(path) and os.path.exists(path)  # noqa: PTH110


def _expanded(pattern: str) -> Iterator[str]:
    """Expand ``{000000..000004}`` (missing numbers are kept, to be named) and ``*``, ``?``."""
    found = _RANGE.search(pattern)
    if found is None:
        if glob.has_magic(pattern):
            yield from sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute too
        return
    first, last = found[1], found[2]
    for number in range(int(first), int(last) + 1):
        one = f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}"
        yield from _expanded(one) if _RANGE.search(one) or glob.has_magic(one) else [one]


def _shards_of_run(folder: Path) -> Path:
    """Turn the run folder of a curation into the folder of its shards."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder
    if not isinstance(facts, dict) or facts.get("command") != "curate":
        return folder
    if not summary_path(folder).is_file():
        raise UsageError(
            what="the curation is not finished",
            where=str(folder),
            do="start its command again; it goes on where it stopped",
        )
    return shards_folder(folder)


def _add_folder(folder: Path, sources: SourceFiles) -> None:
    """Walk a folder in the order of its names; follow links, but no folder twice."""
    seen: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        where = str(error.filename or folder)
        sources.problems.append(problem(where, "", "unreadable", error.strerror or str(error)))

    for here, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        facts = Path(here).stat()
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        present = set(files)
        for name in sorted(files):
            if not name.startswith(".") and not _goes_with_tars(name, present):
                _add_file(os.path.join(here, name), str(folder), sources)  # noqa: PTH118 - hot


def _goes_with_tars(name: str, present: set[str]) -> bool:
    """Tell whether a file is read together with tars: their class names, a checksum file."""
    stem, _, suffix = name.rpartition(".")
    return name in _CLASS_LISTS or (suffix == "json" and f"{stem}.tar" in present)


def _add_file(path: str, root: str, sources: SourceFiles) -> None:
    if is_tar_name(path):
        sources.items.append(path)
        return
    facts = _facts(path)
    if facts is None:
        sources.problems.append(problem(path, "", "unreadable", "no file behind the name"))
    elif has_image_suffix(path) or _looks_like_an_image(path):
        sources.items.append(ImageFile(path, root, *facts))
    else:
        sources.problems.append(problem(path, "", "other_file"))


def _facts(path: str) -> tuple[int, int] | None:
    try:
        facts = Path(path).stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _looks_like_an_image(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return sniff(file.read(SNIFF_BYTES)) is not None
    except OSError:
        return False
