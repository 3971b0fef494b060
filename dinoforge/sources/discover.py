"""Discover the images and tars behind paths, in an order that no file system decides."""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from glob import escape, glob, has_magic
from pathlib import Path

from braceexpand import braceexpand

from dinoforge.curated import shards_folder, shards_path, summary_path
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json, read_regular
from dinoforge.images.formats import SNIFF_BYTES, has_image_suffix, sniff
from dinoforge.shards.index import Problem, problem, summarize_reasons
from dinoforge.shards.tar import BLOCK
from dinoforge.sources.classes import CLASS_LISTS, find_class_list
from dinoforge.sources.outputs import is_output_folder, is_output_shard, output_above

__all__ = ["SOURCE_REASONS", "ImageFile", "SourceFiles", "discover_files", "make_real_path"]

SOURCE_REASONS: Mapping[str, str] = {
    "other_file": "neither an image nor a tar, by name and by content: skipped",
    "unreadable": "it cannot be opened or read",
    "not_regular": "a pipe, socket or device: not opened",
    "hidden": "an image or tar whose name begins with a dot: skipped",
    "hidden_folder": "its name begins with a dot: skipped, with all that is in it",
    "same_file": "the same file or folder again, by a link or listed twice: read once",
    "missing_shard": "exported by the curation, but no longer there",
    "own_output": "written by dinoforge: skipped, unless its own path is given",
}

_TAR_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in (
        *("tar", "tar.gz", "tgz", "taz", "tar.bz2", "tbz2", "tbz", "tb2", "tz2", "tar.xz", "txz"),
        *("tar.zst", "tzst"),
        # Refused by name.
        *("tar.lzma", "tlz", "tar.lz", "tar.lz4", "tar.z"),
    )
)
_TAR_MAGIC = slice(257, 262)  # of the first header


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

    def add_problem(self, path: str, reason: str, detail: str = "") -> None:
        """Note a file or folder that gives no image; ``reason`` is one of `SOURCE_REASONS`."""
        self.problems.append(problem(path, "", reason, detail))

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
        roots = {item.root for item in self.items if isinstance(item, ImageFile)}
        folders |= {(Path(root), Path(root)) for root in roots}
        lists = [find_class_list(*folder) for folder in sorted(folders)]
        rows += [[classes.path, classes.space] for classes in lists if classes is not None]
        return hash_json(rows)


def discover_files(paths: Sequence[str]) -> SourceFiles:
    """Find images and tars; paths are files, folders, patterns and curation runs.

    A file is one item, whatever paths and links lead to it; repetitions are problems.

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
    _drop_repeats(sources)
    return sources


def make_real_path() -> Callable[[str], str]:
    """Make `os.path.realpath` for many files: the links of a folder are resolved once."""
    real_folder = cache(os.path.realpath)

    def real_path(path: str) -> str:
        if os.path.islink(path):  # noqa: PTH114 - hot
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(real_folder(folder), name)  # noqa: PTH118 - hot

    return real_path


def _drop_repeats(sources: SourceFiles) -> None:
    real_path, items = make_real_path(), []
    first: dict[str, str] = {}
    for item in sources.items:
        path = item if isinstance(item, str) else item.path
        real = real_path(path)
        if real in first:
            sources.add_problem(path, "same_file", f"as {first[real]}")
        else:
            first[real] = path
            items.append(item)
    sources.items = items


def _discover_path(path: str) -> SourceFiles:
    sources = SourceFiles()
    roots = {path: _own_root(path)} if _exists(path) else _expand(path, sources)
    for name, root in (roots or {path: ""}).items():
        if not _exists(name):
            raise UsageError(what="no such file or folder", where=name, do="check the path")
        if not Path(name).is_dir():
            _add_file(name, root, sources)
        elif (folder := _shards_of_run(Path(name))) == Path(name):
            _add_folder(folder, root, sources)
        else:
            _add_folder(folder, str(folder), sources)
            _note_missing_shards(Path(name), sources)
    if path not in roots:
        _raise_roots(sources, set(roots.values()), _start(path))
    # `**` matches a folder and the files in it.
    items: dict[str, ImageFile | str] = {}
    for item in sources.items:
        items.setdefault(item if isinstance(item, str) else item.path, item)
    problems = {(entry["shard"], entry["reason"]): entry for entry in sources.problems}
    return replace(sources, items=list(items.values()), problems=list(problems.values()))


def _own_root(path: str) -> str:
    is_folder = os.path.isdir(path)  # noqa: PTH112 - Path raises for long names
    return str(Path(path) if is_folder else Path(path).parent)


def _start(pattern: str) -> str:
    """Return the folder before the first magic character or brace of a pattern."""
    return str(Path(_existing_part(pattern)[0]))


def _raise_roots(sources: SourceFiles, roots: Collection[str], start: str) -> None:
    """Move the roots of what a pattern with braces matched up to its start.

    Of ``train/{cat,dog}/*.jpg`` cat and dog are class folders; of ``{train,val}/*/*.jpg`` and of
    ``{train,val}`` with folders inside, train and val are roots.
    """
    sources.roots = {tar: start if at in roots else at for tar, at in sources.roots.items()}
    images = [item for item in sources.items if isinstance(item, ImageFile)]
    if all(str(Path(image.path).parent) == image.root for image in images):
        sources.items = [
            replace(item, root=start) if isinstance(item, ImageFile) else item
            for item in sources.items
        ]


def _exists(path: str) -> bool:
    """Return whether the path exists; ``os.path``, because `Path` raises for long names."""
    return bool(path) and os.path.exists(path)  # noqa: PTH110


def _expand(pattern: str, sources: SourceFiles) -> dict[str, str]:
    """Expand braces as the shell does (missing files are kept), then ``*``, ``?`` and ``[``.

    Returns the root of every match: the folder before the first ``*``, ``?`` or ``[``.
    Folders at the start that exist are taken as they are: ``run[1]/*.tar``.
    """
    folder, rest = _existing_part(pattern)
    try:
        names = list(braceexpand(rest, escape=False))
    except ValueError as error:
        if names := _matches(folder, rest, sources):
            return dict.fromkeys(names, _start(pattern))
        raise UsageError(
            what="no such file or folder, and its braces are unbalanced",
            where=pattern,
            do="write a range as {000000..000004}",
        ) from error
    roots: dict[str, str] = {}
    for name in names:
        if has_magic(name):
            matches = _without_outputs(folder, name, sources)
            new = dict.fromkeys(matches, _start(folder + name))
        else:
            new = {folder + name: _own_root(folder + name)}
        roots |= {match: root for match, root in new.items() if match not in roots}
    return roots


def _existing_part(pattern: str) -> tuple[str, str]:
    """Split a pattern behind the folders that exist under their literal names."""
    folder, rest = "", pattern
    while "/" in rest:
        name, _, after = rest.partition("/")
        if not _exists(f"{folder}{name}/"):
            break
        folder, rest = f"{folder}{name}/", after
    return folder, rest


def _without_outputs(folder: str, pattern: str, sources: SourceFiles) -> list[str]:
    """Match a pattern in a folder, without what dinoforge wrote; unless that is all it matches."""
    base = folder.rstrip("/") or folder
    outputs = {name: _output_of(name, base) for name in _matches(folder, pattern, sources)}
    if not all(outputs.values()):
        for output in dict.fromkeys(filter(None, outputs.values())):
            sources.add_problem(output, "own_output")
        return [name for name, output in outputs.items() if output is None]
    return list(outputs)


def _output_of(name: str, base: str) -> str | None:
    above = output_above(name, base)
    if above is None and name.lower().endswith(_TAR_SUFFIXES) and is_output_shard(name):
        return str(Path(name).parent)
    return above


def _matches(folder: str, pattern: str, sources: SourceFiles) -> list[str]:
    """Match a pattern in a folder; ``**`` enters no folder twice, as links may form loops."""
    parts = pattern.split("/")
    if "**" not in parts:
        return sorted(glob(escape(folder) + pattern))  # noqa: PTH207 - absolute, too
    at = parts.index("**")
    head, rest = "".join(f"{part}/" for part in parts[:at]), "/".join(parts[at + 1 :]) or "*"
    bases = glob(escape(folder) + head) if head else [folder]  # noqa: PTH207
    names = set(bases) if at + 1 == len(parts) else set()
    for base in bases:
        for here, _, _ in _walk(base or ".", sources):
            inside = os.path.join(here, "")  # noqa: PTH118
            names.update(_matches(inside if base else inside.removeprefix("./"), rest, sources))
    return sorted(names - {""})


def _shards_of_run(folder: Path) -> Path:
    """Replace the run folder of a curation by the folder of its shards."""
    try:
        facts = json.loads(read_regular(folder / "run.json"))
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


def _note_missing_shards(run: Path, sources: SourceFiles) -> None:
    """Note the shards that a curation exported and that are no longer there."""
    try:
        listed = json.loads(read_regular(shards_path(run)))
    except (OSError, ValueError):
        return
    for entry in listed:
        if not (run / entry["shard"]).is_file():
            sources.add_problem(str(run / entry["shard"]), "missing_shard")


def _walk(top: str, sources: SourceFiles) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder in the order of names; follow links, but enter no folder twice.

    Whoever clears the list of folders that it was given keeps the walk out of them.
    """
    visited: dict[tuple[int, int], str] = {}

    def failed(error: OSError) -> None:
        where = str(error.filename or top)
        sources.add_problem(where, "unreadable", error.strerror or str(error))

    for here, folders, files in os.walk(top, followlinks=True, onerror=failed):
        status = Path(here).stat()
        first = visited.setdefault((status.st_dev, status.st_ino), here)
        if first != here:
            sources.add_problem(here, "same_file", f"as {first}")
            folders.clear()
            continue
        yield here, folders, files
        for name in sorted(folders):
            if name.startswith("."):
                sources.add_problem(os.path.join(here, name), "hidden_folder")  # noqa: PTH118 - hot
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _add_folder(folder: Path, root: str, sources: SourceFiles) -> None:
    """Add what is in a folder, without what dinoforge wrote below it, reported once per folder.

    Exported shards in the folder itself are read in a run, or if there is nothing else. ``root`` is
    the folder or above it.
    """
    top, before = str(folder), len(sources.items)
    exported: list[str] = []
    for here, folders, files in _walk(top, sources):
        if here != top and _is_output(here, files, top):
            sources.add_problem(here, "own_output")
            folders.clear()
            continue
        shards = _add_files(here, files, root, sources)
        if here == top:
            exported = shards
        elif shards:
            sources.add_problem(here, "own_output", f"exported shards: {len(shards)}")
    if len(sources.items) == before or is_output_folder(str(Path(os.path.realpath(top)).parent)):
        for path in exported:
            _add_file(path, root, sources)
    elif exported:
        sources.add_problem(top, "own_output", f"exported shards: {len(exported)}")


def _add_files(folder: str, names: Collection[str], root: str, sources: SourceFiles) -> list[str]:
    """Add the files of a folder, but exported shards: return them."""
    present, shards = set(names), []
    for name in sorted(names):
        path = os.path.join(folder, name)  # noqa: PTH118 - hot
        if name.startswith("."):
            with contextlib.suppress(OSError):
                if _kind(path) != "other_file":
                    sources.add_problem(path, "hidden")
        elif _is_exported(path, present):
            shards.append(path)
        elif not _belongs_to_tars(name, present):
            _add_file(path, root, sources)
    return shards


def _is_output(folder: str, files: Collection[str], root: str) -> bool:
    """Return whether dinoforge wrote a folder of a walk; a link may lead into such a folder."""
    if is_output_folder(folder, files):
        return True
    if not os.path.islink(folder):  # noqa: PTH114 - hot
        return False
    top, real = os.path.realpath(root), os.path.realpath(folder)
    base = os.path.commonpath([top, real])
    return base != real and output_above(real, base) is not None


def _is_exported(path: str, present: set[str]) -> bool:
    """Return whether a tar is an exported shard: its checksum file lies beside it."""
    stem, _, suffix = path.rpartition(".")
    if suffix != "tar":
        return False
    has_sidecar = f"{os.path.basename(stem)}.json" in present  # noqa: PTH119 - hot
    return (has_sidecar or os.path.islink(path)) and is_output_shard(path)  # noqa: PTH114


def _belongs_to_tars(name: str, present: set[str]) -> bool:
    """Return whether a file is read together with tars: a list of classes or a checksum file."""
    stem, _, suffix = name.rpartition(".")
    return name in CLASS_LISTS or (suffix == "json" and f"{stem}.tar" in present)


def _add_file(path: str, root: str, sources: SourceFiles) -> None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        sources.add_problem(path, "unreadable", "no file behind the name")
        return
    except OSError as error:
        sources.add_problem(path, "unreadable", error.strerror or str(error))
        return
    if not stat.S_ISREG(status.st_mode):
        sources.add_problem(path, "not_regular")
        return
    try:
        kind = _kind(path)
    except OSError as error:
        sources.add_problem(path, "unreadable", error.strerror or str(error))
        return
    if kind == "tar":
        sources.items.append(path)
        sources.roots[path] = root
    elif kind == "image":
        sources.items.append(ImageFile(path, root, status.st_size, status.st_mtime_ns))
    else:
        sources.add_problem(path, kind)


def _kind(path: str) -> str:
    """Return what a file is by its name, else by its content: tar, image or other_file."""
    if path.lower().endswith(_TAR_SUFFIXES):
        return "tar"
    if has_image_suffix(path):
        return "image"
    head = read_regular(path, BLOCK)
    if sniff(head[:SNIFF_BYTES], path.rpartition(".")[2].lower()) is not None:
        return "image"
    return "tar" if head[_TAR_MAGIC] == b"ustar" else "other_file"


def _size_and_mtime(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
