"""The files behind the sources, listed once: tars, and files that are one sample by their stem."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.curation.sharding.tables import (
    FILES_SCHEMA,
    PROBLEMS_SCHEMA,
    ShardingInputs,
    ShardingStage,
)
from dinoforge.files import hash_json, path_text
from dinoforge.remote import is_url
from dinoforge.remote.listings import listings_folder
from dinoforge.remote.urls import join_path
from dinoforge.shards.index import Problem, problem
from dinoforge.sources.discover import SourceFile, SourceFiles, discover_files, fingerprint_sources
from dinoforge.sources.objects import listed_sizes
from dinoforge.stages import Json, Output
from dinoforge.tables import ROW_GROUP_ROWS

__all__ = ["DiscoverStage", "source_paths"]


class DiscoverStage(ShardingStage):
    """List tars and files; what stands beside an image under its stem belongs to its sample."""

    name = "discover"
    number = 10
    version = "1.1.0"
    keys = ("sources", "data.root")

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan one partition; its payload covers names, sizes and times of all files."""
        paths, listings = source_paths(inputs.config), listings_folder(inputs.run_folder)
        # What is beside images in a bucket is part of its listing.
        files = discover_files([path for path in paths if not is_url(path)], listings)
        beside = [name for group in _group(files)[0] for name in group.beside]
        status = [(name, os.stat(name)) for name in beside if not is_url(name)]  # noqa: PTH116
        marks = [[name, at.st_size, at.st_mtime_ns] for name, at in status]
        return [{"files": fingerprint_sources(paths, listings), "beside": hash_json(marks)}]

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:  # noqa: ARG002
        """List them."""
        paths, listings = source_paths(inputs.config), listings_folder(inputs.run_folder)
        files = discover_files(paths, listings)
        groups, rest = _group(files)
        remote = listed_sizes(paths, listings)
        out.write_tables("files", _in_tables(groups, remote), FILES_SCHEMA)
        table = pa.Table.from_pylist(
            [entry | {"shard": path_text(entry["shard"])} for entry in rest], PROBLEMS_SCHEMA
        )
        out.write_table("problems", table, PROBLEMS_SCHEMA)
        return {"rows": len(groups), "not_downloaded": dict(files.failed)}


def source_paths(config: ShardingConfig) -> list[str]:
    """Return the paths of the sources, relative ones inside `data.root`."""
    return [join_path(config.data.root, path) for path in config.sources]


@dataclass(slots=True)
class _Group:
    """An archive of images, or the files of one sample."""

    first: SourceFile
    names: list[str] = field(default_factory=list)  # of further images
    sizes: list[int] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # paths of files that are no images

    def has(self, name: str) -> bool:
        """Return whether a member with the suffix of a file is there, in any case."""
        suffixes = {name.rpartition(".")[2].lower() for name in (self.first.path, *self.names)}
        return name.rpartition(".")[2].lower() in suffixes

    def as_row(self, remote: Mapping[str, int]) -> dict[str, Any]:
        """Make a row of the table; ``remote`` are the sizes of objects."""
        first = self.first
        folder, _, name = first.path.rpartition("/")
        names, sizes = [name, *self.names], [first.size, *self.sizes]
        for path in sorted(self.beside):
            names.append(path.rpartition("/")[2])
            sizes.append(remote[path] if is_url(path) else os.stat(path).st_size)  # noqa: PTH116
        return {
            "path": path_text(first.path if first.is_archive else folder or "."),
            "root": path_text(first.root),
            "names": [] if first.is_archive else [path_text(name) for name in names],
            "sizes": [] if first.is_archive else sizes,
            "size": sum(sizes),
            "list_folders": [path_text(folder) for folder in first.list_folders],
        }


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot else name}"


def _group(files: SourceFiles) -> tuple[list[_Group], list[Problem]]:
    """Group files by stem; a file that is no image belongs to the image of its stem.

    Returns the groups, in the order of their first files, and the problems that are left.
    """
    groups: list[_Group] = []
    by_stem: dict[str, _Group] = {}
    for item in files.items:
        stem = _stem(item.path)
        group = None if item.is_archive else by_stem.get(stem)
        if group is not None and not group.has(item.path):
            group.names.append(item.path.rpartition("/")[2])
            group.sizes.append(item.size)
            continue
        groups.append(_Group(item))
        if not item.is_archive:
            by_stem.setdefault(stem, groups[-1])
    rest: list[Problem] = []
    # Repeated, if paths overlap.
    beside = [problem(path, "", "other_file") for path in dict.fromkeys(files.beside)]
    for entry in [*files.problems, *beside]:
        group = by_stem.get(_stem(entry["shard"])) if entry["reason"] == "other_file" else None
        if group is None:
            rest.append(entry)
        else:
            group.beside.append(entry["shard"])
    return groups, rest


def _in_tables(groups: Sequence[_Group], remote: Mapping[str, int]) -> Iterator[pa.Table]:
    for start in range(0, len(groups), ROW_GROUP_ROWS):
        rows = [group.as_row(remote) for group in groups[start : start + ROW_GROUP_ROWS]]
        yield pa.Table.from_pylist(rows, FILES_SCHEMA)
