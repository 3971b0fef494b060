"""Discover images, tars and tables behind URLs: one listing of a bucket, in order of folders."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dinoforge.curated import UPLOADED
from dinoforge.errors import UsageError
from dinoforge.files import hash_json
from dinoforge.images.formats import has_image_suffix
from dinoforge.remote import is_url
from dinoforge.remote.listings import find_objects_once, list_once
from dinoforge.remote.reading import map_ahead
from dinoforge.remote.store import RemoteObject, expand_pattern
from dinoforge.remote.urls import join_url, parent_url
from dinoforge.sources.classes import CLASS_LISTS
from dinoforge.sources.downloads import read_statuses
from dinoforge.sources.source_files import (
    SourceFile,
    SourceFiles,
    file_kind,
    is_about,
    is_beside_image,
)

__all__ = ["discover_objects", "discover_url", "fingerprint_url", "listed_sizes"]

_MAGIC = frozenset("*?[{")


def fingerprint_url(url: str, listings: Path | None) -> str:
    """Hash names, sizes and versions of what is listed for a URL; no object is opened.

    Raises
    ------
    UsageError
        See `discover_url`.
    """
    listed = _list(_start(url), listings)
    return hash_json([url, *([one.url, one.size, one.version] for one in listed)])


def listed_sizes(paths: Iterable[str], listings: Path | None) -> dict[str, int]:
    """Return the sizes of all objects that are listed for the URLs among some paths."""
    starts = {_start(path) for path in paths if is_url(path)}
    return {one.url: one.size for start in starts for one in _list(start, listings)}


def _start(url: str) -> str:
    return expand_pattern(url)[0] if _MAGIC & set(url) else url.rstrip("/")


def _list(start: str, listings: Path | None) -> list[RemoteObject]:
    listed = list_once(start, listings)
    if not listed:
        raise UsageError(what="no such object or folder", where=start, do="check the URL")
    return listed


def discover_url(url: str, listings: Path | None = None) -> SourceFiles:
    """Find images and tars behind a URL: an object, a folder, a pattern, or a published curation.

    ``listings`` is the folder of what was listed before, see `list_once`.

    Raises
    ------
    UsageError
        If there is nothing, or the store refuses or does not answer.
    """
    sources = SourceFiles()
    if _MAGIC & set(url):
        start, matches = expand_pattern(url)
        listed = _list(start, listings)
        chosen = _matched(listed, start, matches)
        _add_objects(chosen, start, _folders_of_lists(listed), sources)
        if not chosen:
            raise UsageError(what="no object matches", where=url, do="check the URL")
        return sources
    folder = url.rstrip("/")
    listed = _list(folder, listings)
    is_object = [one.url for one in listed] == [folder]
    if any(one.url == join_url(folder, UPLOADED) for one in listed):
        folder = join_url(folder, "shards")
        listed = [one for one in listed if one.url.startswith(f"{folder}/")]
    root = parent_url(folder) if is_object else folder
    # What is beside a single object is not listed: there may be a list of classes.
    lists = {root} if is_object else _folders_of_lists(listed)
    _add_objects(sorted(listed, key=partial(_walk_order, root)), root, lists, sources)
    return sources


def discover_objects(
    urls: Sequence[str], manifest: str, listings: Path | None
) -> dict[str, SourceFiles]:
    """Find images and tars behind the URLs of a list; a missing object is a problem.

    Raises
    ------
    UsageError
        If the store refuses or does not answer.
    """
    plain = [url for url in dict.fromkeys(urls) if not _MAGIC & set(url)]
    objects = find_objects_once(plain, listings, manifest) if plain else {}
    kinds = dict(zip(objects, map_ahead(file_kind, objects), strict=True))
    folder = parent_url(manifest)
    result: dict[str, SourceFiles] = {}
    for url in dict.fromkeys(urls):
        one = result[url] = SourceFiles()
        if url in kinds and kinds[url] != "other_file":
            root = folder if url.startswith(f"{folder}/") else parent_url(url)
            file = SourceFile(url, root, objects[url].size, 0, version=objects[url].version)
            if kinds[url] != "image":
                above = tuple(dict.fromkeys((parent_url(url), root)))
                file = replace(file, is_archive=True, list_folders=above)
            one.items.append(file)
        elif url in kinds:
            one.add_problem(url, "other_file")
        elif _MAGIC & set(url):
            result[url] = discover_url(url, listings)
        else:
            one.add_problem(url, "unreadable", "no such object")
    return result


def _matched(
    listed: Iterable[RemoteObject], start: str, matches: Sequence[Callable[[str], bool]]
) -> list[RemoteObject]:
    """Choose the objects that match, or that are in a folder that does: in the order of matches."""
    order: dict[RemoteObject, tuple[int, str, list[tuple[bool, str]]]] = {}
    for one in listed:
        parts = one.url[len(start) + 1 :].split("/")
        above = [join_url(start, *parts[: at + 1]) for at in range(len(parts))]
        for number, match in enumerate(matches):
            if first := next(filter(match, above), None):
                order[one] = (number, first, _walk_order(first, one))
                break
    return sorted(order, key=order.__getitem__)


def _walk_order(root: str, one: RemoteObject) -> list[tuple[bool, str]]:
    """Sort the files of a folder before the folders in it, as a walk over local folders does."""
    *folders, name = one.url[len(root) :].strip("/").split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _folders_of_lists(listed: Iterable[RemoteObject]) -> set[str]:
    """Return the folders that have a list of classes."""
    return {parent_url(one.url) for one in listed if one.url.rpartition("/")[2] in CLASS_LISTS}


def _add_objects(
    listed: Sequence[RemoteObject], root: str, lists: Collection[str], sources: SourceFiles
) -> None:
    visible = _visible(listed, root, sources)
    kinds = list(map_ahead(lambda one: file_kind(one.url), visible))
    for one, kind in zip(visible, kinds, strict=True):
        folders, name = _split(one.url, root)
        if kind == "other_file":
            if not name.startswith("."):
                sources.add_problem(one.url, kind)
            continue
        if name.startswith("."):
            sources.add_problem(one.url, "hidden")
            continue
        above = [join_url(root, *folders[:at]) for at in range(len(folders), 0, -1)]
        file = SourceFile(one.url, root, one.size, mtime_ns=0, version=one.version)
        if kind != "image":
            nearest = tuple(folder for folder in (*above, root) if folder in lists)
            file = replace(file, is_archive=True, list_folders=nearest)
        sources.items.append(file)


def _visible(listed: Sequence[RemoteObject], root: str, sources: SourceFiles) -> list[RemoteObject]:
    """Return the objects outside hidden folders and published curations, which are reported."""
    urls = {one.url for one in listed}
    stems = {url.rpartition(".")[0] for url in urls if has_image_suffix(url.rpartition("/")[2])}
    above = {url.rpartition("/")[0] for url in urls}
    outputs = {url.removesuffix(f"/{UPLOADED}") for url in urls if url.endswith(f"/{UPLOADED}")}
    skipped = dict.fromkeys(sorted(outputs), "own_output")
    visible: list[RemoteObject] = []
    for one in listed:
        folders, _ = _split(one.url, root)
        dotted = next((at for at, folder in enumerate(folders) if folder.startswith(".")), None)
        if dotted is not None:
            skipped[join_url(root, *folders[: dotted + 1])] = "hidden_folder"
        elif any(one.url.startswith(f"{output}/") for output in outputs):
            continue
        elif is_beside_image(one.url, stems):
            sources.beside.append(one.url)
        elif is_about(one.url, urls, above):
            if one.url.removesuffix(".parquet") in above:
                sources.failed.update(read_statuses(one.url))
        elif one.url.rpartition("/")[2] not in CLASS_LISTS:
            visible.append(one)
    for folder, reason in skipped.items():
        sources.add_problem(folder, reason)
    return visible


def _split(url: str, root: str) -> tuple[list[str], str]:
    *folders, name = url[len(root) :].strip("/").split("/")
    return folders, name
