"""What `list` stored of every source: its partitions, one after another."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.shards.index import Problem
from dinoforge.sources.classes import ClassList, find_class_list
from dinoforge.tables import iter_blocks, read_tables

__all__ = ["ListedSource", "merge_problems", "read_listed"]


@dataclass
class ListedSource:
    """The images of one source, in order."""

    discovered: Path  # problems of the discovery of all sources
    index: int  # of the source in the recipe
    listing: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    problems: list[Path] = field(default_factory=list)
    num_images: int = 0
    num_in_folders: int = 0
    class_lists: dict[str, ClassList] = field(default_factory=dict)  # by class space

    def iter_rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the listing in blocks of rows."""
        return iter_blocks(self.listing, columns)

    def iter_problems(self) -> Iterator[pa.Table]:
        """Yield the problems in blocks: those of the discovery, then those of files in order."""
        for block in iter_blocks([self.discovered]):
            yield block.filter(pc.equal(block.column("source"), self.index)).drop(["source"])
        yield from iter_blocks(self.problems)

    def iter_reasons(self) -> Iterator[Problem]:
        """Yield the problems one by one."""
        return (entry for block in self.iter_problems() for entry in block.to_pylist())

    def read_places(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Read what identifies every file, and how many images it has."""
        files = read_tables(self.files)
        return tables.hash_column(files, "place"), files.column("images").to_numpy()

    def match_keys(self, pattern: str) -> NDArray[np.bool_]:
        """Return which rows have a key that a shell pattern matches; all for ""."""
        matched = np.ones(self.num_images, np.bool_)
        if pattern:
            match, at = re.compile(fnmatch.translate(pattern)).match, 0
            for block in self.iter_rows(["key"]):
                keys = block.column("key").to_pylist()
                matched[at : at + len(keys)] = [match(key) is not None for key in keys]
                at += len(keys)
        return matched


def read_listed(inputs: CurationInputs) -> list[ListedSource]:
    """Read what was listed, by source.

    Raises
    ------
    UsageError
        If a list of classes is no longer what it was.
    """
    discovered = inputs.file("discover", "problems.parquet")
    sources = [ListedSource(discovered, at) for at in range(len(inputs.config.sources))]
    names = ("listing.parquet", "files.parquet", "problems.parquet")
    paths = zip(*(inputs.files("list", name) for name in names), strict=True)
    for facts, (listing, files, problems) in zip(inputs.facts("list"), paths, strict=True):
        source = sources[facts["source"]]
        source.listing.append(listing)
        source.files.append(files)
        source.problems.append(problems)
        source.num_images += facts["images"]
        source.num_in_folders += facts["in_folders"]
        for space, path in facts["class_lists"]:
            if space not in source.class_lists:
                source.class_lists[space] = _read_again(space, path)
    return sources


def _read_again(space: str, path: str) -> ClassList:
    classes = find_class_list([path.rpartition("/")[0] or "."])
    if classes is None or classes.space != space:
        what = "the list of classes has changed since the images were listed"
        raise UsageError(what=what, where=path, do="run the command again")
    return classes


def merge_problems(sources: Sequence[ListedSource]) -> Iterator[pa.Table]:
    """Join the problems of all sources; a file or tar that several list counts once."""
    seen = pa.array([], pa.string())
    for source in sources:
        new = [seen]
        for block in source.iter_problems():
            is_seen = pc.is_in(block.column("shard"), value_set=seen)
            rest = block.filter(pc.invert(is_seen))
            new.append(pc.unique(rest.column("shard")))
            yield rest
        seen = pa.concat_arrays(new)
