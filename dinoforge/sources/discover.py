"""Discover the images, tars and tables behind paths, in an order that no file system decides."""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from glob import escape, glob, has_magic
from pathlib import Path

from braceexpand import braceexpand

from dinoforge.curated import shards_folder, shards_path, summary_path
from dinoforge.errors import Fault, UsageError, damaged
from dinoforge.files import hash_json, read_regular
from dinoforge.images.formats import has_image_suffix
from dinoforge.remote import is_url
from dinoforge.remote.urls import is_stream, parent_url
from dinoforge.shards.index import summarize_reasons
from dinoforge.sources.classes import CLASS_LISTS
from dinoforge.sources.downloads import SUCCESS, read_statuses
from dinoforge.sources.manifests import is_manifest, read_manifest
from dinoforge.sources.objects import discover_objects, discover_url, fingerprint_url
from dinoforge.sources.outputs import (
    command_of_run,
    is_output_folder,
    is_output_shard,
    output_above,
)
from dinoforge.sources.source_files import (
    SOURCE_REASONS,
    TAR_SUFFIXES,
    SourceFile,
    SourceFiles,
    file_kind,
    is_about,
    is_beside_image,
)
from dinoforge.sources.streams import find_stream_copy

__all__ = [
    "SOURCE_REASONS",
    "SourceFile",
    "SourceFiles",
    "discover_files",
    "fingerprint_sources",
    "make_real_path",
]


def discover_files(paths: Sequence[str], listings: Path | None = None) -> SourceFiles:
    """Find images and tars; paths are files, folders, patterns, curation runs, or their URLs.

    A file is one item, whatever paths and links lead to it; repetitions are problems. ``listings``
    is the folder of what was listed of buckets before: see `list_once`.

    Raises
    ------
    UsageError
        Lists every path that is missing or contains neither an image nor an archive of images.
    """
    sources = SourceFiles()
    faults: list[Fault] = []
    known: set[str] = set()  # paths with a problem: they may be inside several of ``paths``
    for path in paths:
        try:
            one = _discover(path, listings)
        except UsageError as error:
            faults.extend(error.faults)
            continue
        if not one.items:
            what = f"no images and no tars{summarize_reasons(one.problems)}"
            do = "give a folder, a tar or a pattern that contains images"
            faults.append(Fault(what, path, do))
        sources.items.extend(one.items)
        sources.beside.extend(one.beside)
        sources.failed.update(one.failed)
        sources.problems.extend(entry for entry in one.problems if entry["shard"] not in known)
        known.update(entry["shard"] for entry in one.problems)
    if faults:
        raise UsageError(faults=faults)
    _drop_repeats(sources)
    del sources.failed[SUCCESS]
    return sources


def _discover(path: str, listings: Path | None) -> SourceFiles:
    if is_stream(path):
        # Copies are beside the listings of a run.
        copy = find_stream_copy(path, listings.parents[1]) if listings is not None else None
        if copy is None:
            raise UsageError(what="the stream is not read yet", where="sources", do="start the run")
        return _discover_path(str(copy), listings)
    if not is_url(path):
        return _discover_path(path, listings)
    if not is_manifest(path) or has_magic(path):
        return discover_url(path, listings)
    sources = SourceFiles()
    _add_listed(path, sources, listings)
    return sources


def fingerprint_sources(paths: Sequence[str], listings: Path | None) -> str:
    """Hash what changes when a file behind some paths is added, removed or replaced.

    Of URLs what is listed counts: no image is opened, and nothing is listed that was before.

    Raises
    ------
    UsageError
        Lists every path that is missing; see `discover_files`.
    """
    faults: list[Fault] = []
    marks: list[str] = []
    local = [path for path in paths if not is_url(path)]
    for path in filter(is_url, paths):
        try:
            if is_manifest(path):
                marks.append(discover_files([path], listings).fingerprint())
            else:
                marks.append(fingerprint_url(path, listings))
        except UsageError as error:
            faults.extend(error.faults)
    try:
        marks += [discover_files(local, listings).fingerprint()] if local else []
    except UsageError as error:
        faults.extend(error.faults)
    if faults:
        raise UsageError(faults=faults)
    return hash_json(marks) if len(marks) > 1 else marks[0]


def make_real_path() -> Callable[[str], str]:
    """Make `os.path.realpath` for many files: the links of a folder are resolved once."""
    real_folder = cache(os.path.realpath)

    def real_path(path: str) -> str:
        if is_url(path):
            return path
        if os.path.islink(path):  # noqa: PTH114 - hot
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(real_folder(folder), name)  # noqa: PTH118 - hot

    return real_path


def _drop_repeats(sources: SourceFiles) -> None:
    real_path, first = make_real_path(), dict[str, SourceFile]()
    for file in sources.items:
        earlier = first.setdefault(real_path(file.path), file)
        if earlier is not file:
            sources.add_problem(file.path, "same_file", f"as {earlier.path}")
    roots = dict.fromkeys(file.root for file in sources.items if not is_url(file.root))
    tops = [os.path.realpath(root) for root in roots]
    sources.items = [
        replace(file, list_folders=_list_folders(file, real, tops))
        if file.is_archive and not is_url(real)
        else file
        for real, file in first.items()
    ]


def _list_folders(file: SourceFile, real: str, tops: Sequence[str]) -> tuple[str, ...]:
    """Return its folder, then for a link those of the file behind it, then those above.

    ``real`` is the path without links, ``tops`` the roots of all files without links.
    """
    folder = Path(real).parent
    top = next((Path(top) for top in tops if folder.is_relative_to(top)), folder)
    nearest, *above = _folders_up(Path(file.path).parent, Path(file.root))
    own = {os.path.realpath(one) for one in (nearest, *above)}
    behind = [one for one in _folders_up(folder, top) if one not in own]
    return (nearest, *behind, *above)


def _folders_up(folder: Path, root: Path) -> list[str]:
    """List a folder and those above it, up to ``root``."""
    folders = [folder, *folder.parents]
    return [str(one) for one in folders[: folders.index(root) + 1]]


def _discover_path(path: str, listings: Path | None) -> SourceFiles:
    sources = SourceFiles()
    is_pattern = not _exists(path)
    roots = _expand(path, sources) if is_pattern else {path: _own_root(path)}
    for name, root in (roots or {path: ""}).items():
        if not _exists(name):
            raise UsageError(what="no such file or folder", where=name, do="check the path")
        if is_manifest(name) and not is_pattern:
            _add_listed(name, sources, listings)
        elif not Path(name).is_dir():
            _add_file(name, root, sources)
        elif command_of_run(name) == "curate":
            _add_curation(Path(name), sources)
        else:
            _add_folder(str(Path(name)), root, sources)
    if is_pattern:
        _raise_roots(sources, set(roots.values()), _start(path))
        # `**` matches a folder and the files in it.
        items: dict[str, SourceFile] = {}
        for file in sources.items:
            items.setdefault(file.path, file)
        sources.items = list(items.values())
    problems = {(entry["shard"], entry["reason"]): entry for entry in sources.problems}
    return SourceFiles(sources.items, list(problems.values()), sources.beside, sources.failed)


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
    if not all(Path(root).is_relative_to(start) for root in roots):  # as of {/a,/b}
        if len({Path(root).is_absolute() for root in roots}) > 1:
            return
        start = os.path.commonpath(roots)
    images = (file for file in sources.items if not file.is_archive)
    is_flat = all(str(Path(image.path).parent) == image.root for image in images)
    sources.items = [
        replace(file, root=start) if (file.root in roots if file.is_archive else is_flat) else file
        for file in sources.items
    ]


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path raises for long names


def _expand(pattern: str, sources: SourceFiles) -> dict[str, str]:
    """Expand braces as the shell does (missing files are kept), then ``*``, ``?`` and ``[``.

    Returns the root of every match: the folder before the first ``*``, ``?`` or ``[``.
    Folders at the start that exist are taken as they are: ``run[1]/*.tar``.
    """
    folder, rest = _existing_part(pattern)
    roots: dict[str, str] = {}
    try:
        names = list(braceexpand(rest, escape=False))
    except ValueError as error:
        if roots := dict.fromkeys(_matches(folder, rest, sources), _start(pattern)):
            return roots
        raise UsageError(
            what="no such file or folder, and its braces are unbalanced",
            where=pattern,
            do="write a range as {000000..000004}",
        ) from error
    for name in names:
        path = folder + name
        if has_magic(name):
            root, matches = _start(path), _without_outputs(folder, name, sources)
        else:
            root, matches = _own_root(path), [path]
        for match in matches:
            roots.setdefault(match, root)
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
    output_of_folder = cache(lambda here: output_above(here, base))

    def output_of(name: str) -> str | None:
        parent = os.path.dirname(name)  # noqa: PTH120 - hot
        if above := output_of_folder(parent):
            return above
        if is_output_folder(name):
            return name
        is_tar = name.lower().endswith(TAR_SUFFIXES)
        return str(Path(parent)) if is_tar and is_output_shard(name) else None

    outputs = {name: output_of(name) for name in _matches(folder, pattern, sources)}
    if all(outputs.values()):
        return list(outputs)
    for output in dict.fromkeys(filter(None, outputs.values())):
        sources.add_problem(output, "own_output")
    return [name for name, output in outputs.items() if output is None]


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


def _add_curation(run: Path, sources: SourceFiles) -> None:
    """Add the shards of a curation; note those that are no longer there."""
    try:
        kept = json.loads(read_regular(summary_path(run)))["kept"]
        exported = [run / entry["shard"] for entry in json.loads(read_regular(shards_path(run)))]
    except FileNotFoundError as error:
        raise UsageError(
            what="the curation is not finished",
            where=str(run),
            do="rerun its command; it resumes where it stopped",
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(run, error, kind="curation") from error
    if not kept:
        raise UsageError(
            what="the curation kept no image",
            where=str(run),
            do="change its recipe: `dinoforge report` and `dinoforge explain RUN IMAGE` show why",
        )
    folder = str(shards_folder(run))
    _add_folder(folder, folder, sources)
    for shard in exported:
        if not shard.is_file():
            sources.add_problem(str(shard), "missing_shard")


def _add_listed(manifest: str, sources: SourceFiles, listings: Path | None) -> None:
    """Add the files of a list; the root of those that are not below its folder is their own."""
    folder = parent_url(manifest) if is_url(manifest) else str(Path(manifest).parent)
    rows = list(read_manifest(manifest))
    objects = discover_objects([path for path, _ in rows if is_url(path)], manifest, listings)
    for path, label in rows:
        if is_url(path):
            sources.items += [replace(file, label=label) for file in objects[path].items]
            sources.problems += objects[path].problems
            continue
        above = str(Path(path).parent)
        _add_file(path, folder if Path(above).is_relative_to(folder) else above, sources, label)


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


def _add_folder(top: str, root: str, sources: SourceFiles) -> None:
    """Add what is in a folder, without what dinoforge wrote below it, reported once per folder.

    Exported shards in the folder itself are read in a run, or if there is nothing else. ``root`` is
    the folder or above it.
    """
    before = len(sources.items)
    exported: list[str] = []
    for here, folders, files in _walk(top, sources):
        if here != top and _is_output(here, files, top):
            sources.add_problem(here, "own_output")
            folders.clear()
            continue
        shards = _add_files(here, files, folders, root, sources)
        if here == top:
            exported = shards
        elif shards:
            sources.add_problem(here, "own_output", f"exported shards: {len(shards)}")
    if len(sources.items) == before or is_output_folder(str(Path(os.path.realpath(top)).parent)):
        for path in exported:
            _add_file(path, root, sources)
    elif exported:
        sources.add_problem(top, "own_output", f"exported shards: {len(exported)}")


def _add_files(
    folder: str, names: Collection[str], folders: Collection[str], root: str, sources: SourceFiles
) -> list[str]:
    """Add the files of a folder, which has other ``folders``, but exported shards: return them."""
    present, shards = set(names), []
    stems = {name.rpartition(".")[0] for name in names if has_image_suffix(name)}
    for name in sorted(names):
        path = os.path.join(folder, name)  # noqa: PTH118 - hot
        if name.startswith("."):
            with contextlib.suppress(OSError):
                if file_kind(path) != "other_file":
                    sources.add_problem(path, "hidden")
        elif name.endswith(".tar") and is_output_shard(path):
            shards.append(path)
        elif name in CLASS_LISTS:
            continue
        elif is_about(name, present, folders):
            if name.removesuffix(".parquet") in folders:
                sources.failed.update(read_statuses(Path(path)))
        elif is_beside_image(name, stems) and os.path.isfile(path):  # noqa: PTH113 - hot
            sources.beside.append(path)
        else:
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


def _add_file(path: str, root: str, sources: SourceFiles, label: str | None = None) -> None:
    try:
        status = Path(path).stat()
        kind = file_kind(path) if stat.S_ISREG(status.st_mode) else "not_regular"
    except FileNotFoundError:
        sources.add_problem(path, "unreadable", "no file behind the name")
    except OSError as error:
        sources.add_problem(path, "unreadable", error.strerror or str(error))
    else:
        if kind in ("tar", "table", "image"):
            size, mtime = status.st_size, status.st_mtime_ns
            is_archive = kind != "image"
            sources.items.append(SourceFile(path, root, size, mtime, is_archive, label))
        else:
            sources.add_problem(path, kind)
