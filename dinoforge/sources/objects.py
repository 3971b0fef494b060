"""Discover images, tars and tables behind URLs: one listing of a bucket, in order of folders."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from dinoforge.curated import UPLOADED
from dinoforge.errors import UsageError
from dinoforge.remote.store import RemoteObject, expand_pattern, list_objects
from dinoforge.remote.urls import join_url, parent_url
from dinoforge.sources.classes import CLASS_LISTS
from dinoforge.sources.source_files import SourceFile, SourceFiles, file_kind

__all__ = ["discover_url"]

_MAGIC = frozenset("*?[{")
_READERS = 16  # threads that look into objects whose names do not say what they are


def discover_url(url: str) -> SourceFiles:
    """Find images and tars behind a URL: an object, a folder, a pattern, or a published curation.

    Raises
    ------
    UsageError
        If there is nothing, or the store refuses or does not answer.
    """
    sources = SourceFiles()
    if _MAGIC & set(url):
        start, matches = expand_pattern(url)
        chosen = _matched(list_objects(start), start, matches)
        _add_objects(chosen, start, sources)
        if not chosen:
            raise UsageError(what="no object matches", where=url, do="check the URL")
        return sources
    folder = url.rstrip("/")
    listed = list_objects(folder)
    if not listed:
        raise UsageError(what="no such object or folder", where=url, do="check the URL")
    is_object = [one.url for one in listed] == [folder]
    if any(one.url == join_url(folder, UPLOADED) for one in listed):
        folder = join_url(folder, "shards")
        listed = [one for one in listed if one.url.startswith(f"{folder}/")]
    root = parent_url(folder) if is_object else folder
    _add_objects(sorted(listed, key=partial(_walk_order, root)), root, sources)
    return sources


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


def _add_objects(listed: Sequence[RemoteObject], root: str, sources: SourceFiles) -> None:
    visible = _visible(listed, root, sources)
    with ThreadPoolExecutor(_READERS) as pool:
        kinds = list(pool.map(lambda one: file_kind(one.url), visible))
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
            file = replace(file, is_archive=True, list_folders=(*above, root))
        sources.items.append(file)


def _visible(listed: Sequence[RemoteObject], root: str, sources: SourceFiles) -> list[RemoteObject]:
    """Return the objects outside hidden folders and published curations, which are reported."""
    urls = {one.url for one in listed}
    outputs = {url.removesuffix(f"/{UPLOADED}") for url in urls if url.endswith(f"/{UPLOADED}")}
    skipped = dict.fromkeys(sorted(outputs), "own_output")
    visible: list[RemoteObject] = []
    for one in listed:
        folders, _ = _split(one.url, root)
        dotted = next((at for at, folder in enumerate(folders) if folder.startswith(".")), None)
        if dotted is not None:
            skipped[join_url(root, *folders[: dotted + 1])] = "hidden_folder"
        elif not _is_note(one.url, urls) and not any(
            one.url.startswith(f"{output}/") for output in outputs
        ):
            visible.append(one)
    for folder, reason in skipped.items():
        sources.add_problem(folder, reason)
    return visible


def _split(url: str, root: str) -> tuple[list[str], str]:
    *folders, name = url[len(root) :].strip("/").split("/")
    return folders, name


def _is_note(url: str, urls: set[str]) -> bool:
    """Return whether an object is read together with tars."""
    name, (stem, _, suffix) = url.rpartition("/")[2], url.rpartition(".")
    is_beside = suffix in ("json", "parquet") and f"{stem.removesuffix('_stats')}.tar" in urls
    return name in CLASS_LISTS or is_beside
