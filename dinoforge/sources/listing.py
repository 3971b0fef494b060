"""One row per image of a source: its key, its class, and where its bytes are.

A stage may list files a few at a time (`list_each`); their rows one after another are those that
`list_files` returns, apart from the ids of classes that have only a name.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.files import path_of_text, path_text
from dinoforge.remote import is_url
from dinoforge.remote.reading import map_ahead
from dinoforge.shards.image_tables import index_table, is_table
from dinoforge.shards.index import Problem, ShardImage, UniqueKeys, index_shard, problem
from dinoforge.sources.classes import (
    NAMES,
    UNLABELED,
    ClassList,
    ImageClass,
    class_of_folder,
    class_of_text,
    find_class_list,
)
from dinoforge.sources.discover import SourceFile, SourceFiles, make_real_path
from dinoforge.sources.downloads import read_failed
from dinoforge.sources.unpack import plain_tar, stream_damage

__all__ = [
    "LISTING_SCHEMA",
    "ClassLists",
    "ListedFiles",
    "Listing",
    "fill_in_ids_of_names",
    "list_each",
    "list_files",
    "locate_images",
    "name_files",
    "printable",
    "report_listing",
]

LISTING_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # path of the image file, the tar or the table
        ("member", pa.string()),  # name in the tar, ``row N`` of a table; "" for an image file
        ("offset", pa.int64()),  # in the file; the row of a table
        ("size", pa.int64()),
        ("label", pa.int64()),  # id of the class in its space; -1: none
        ("class_space", pa.string()),  # "", names, numbers or list:HASH, see `classes`
        ("class_name", pa.string()),  # "" if unknown
    ]
)

_BATCH = 4096  # image files that become one table

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Images in order, and problems with everything that is not an image."""

    table: pa.Table
    problems: list[Problem]
    unpacked: list[Path] = field(default_factory=list)  # uncompressed copies that the table names
    class_lists: dict[str, ClassList] = field(default_factory=dict)  # by class space
    # samples that img2dataset states beside them, but did not get: status -> number
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class ListedFiles:
    """What some files give that follow one another: one tar, or image files."""

    table: pa.Table  # rows of `LISTING_SCHEMA`; the label of a class that is a name is -1
    num_files: int
    is_archive: bool
    problems: list[Problem] = field(default_factory=list)
    copy: Path | None = None  # the uncompressed copy of a tar
    num_in_folders: int = 0  # images of a tar without labels that look like those of class folders
    # samples that img2dataset states beside a tar, but did not get: status -> number
    failed: Mapping[str, int] = field(default_factory=dict)


def list_files(files: SourceFiles, *, unpacked: Path) -> Listing:
    """List the images of discovered files; uncompress tars in ``unpacked``."""
    lists = ClassLists()
    listed = list(list_each(name_files(files.items), lists, unpacked=unpacked))
    report_listing(sum(one.num_in_folders for one in listed), lists.by_space)
    tables = [LISTING_SCHEMA.empty_table(), *(one.table for one in listed)]
    table = fill_in_ids_of_names(pa.concat_tables(tables).combine_chunks())
    every = itertools.chain(files.problems, *(one.problems for one in listed))
    copies = [one.copy for one in listed if one.copy is not None]
    failed = sum((Counter(one.failed) for one in listed), Counter(files.failed))
    return Listing(table, [printable(entry) for entry in every], copies, lists.by_space, failed)


def name_files(files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, str]]:
    """Yield the files of a source with the key of each image file, which no other one has.

    A tar has "": its images have keys of their own.
    """
    keys = UniqueKeys()
    for file in files:
        if file.is_archive:
            yield file, ""
        else:
            relative = PurePath(file.path).relative_to(file.root)
            suffix = path_text(relative.suffix[1:])
            yield file, keys.take(path_text(relative.with_suffix("")), suffix)


def list_each(
    files: Iterable[tuple[SourceFile, str]], lists: "ClassLists", *, unpacked: Path
) -> Iterator[ListedFiles]:
    """List files with their keys (`name_files`), in order: each tar, and each few image files."""
    kinds = itertools.groupby(files, lambda pair: (pair[0].is_archive, is_url(pair[0].path)))
    for (is_archive, is_remote), same in kinds:
        if is_archive:
            read = partial(_read_archive, unpacked=unpacked)
            archives = (file for file, _ in same)
            for archive in map_ahead(read, archives) if is_remote else map(read, archives):
                yield _list_archive(archive, lists)
        else:
            while batch := list(itertools.islice(same, _BATCH)):
                rows = [_row_of_file(file, key, lists) for file, key in batch]
                yield ListedFiles(_table(rows), len(batch), is_archive=False)


def printable(entry: Problem) -> Problem:
    """Write the path of a problem as text for tables."""
    return problem(**entry | {"shard": path_text(entry["shard"])})


def report_listing(num_in_folders: int, class_lists: Mapping[str, ClassList]) -> None:
    """Log what is unusual about the labels of a source."""
    if num_in_folders:
        _log.info(
            "%d images in folders inside tars have no label: there, only .cls files are labels",
            num_in_folders,
        )
    for classes in class_lists.values():
        if classes.rival:
            _log.warning(
                "two lists of classes differ: %s is used, %s is not - remove one of them",
                classes.path,
                classes.rival,
            )


def locate_images(table: pa.Table) -> list[tuple[str, int]]:
    """Identify images by their file (without links) and offset, whatever path leads to them."""
    real_path = make_real_path()
    place = cache(lambda shard: real_path(path_of_text(shard)))
    shards, offsets = (table.column(name).to_pylist() for name in ("shard", "offset"))
    return [(place(shard), at) for shard, at in zip(shards, offsets, strict=True)]


class ClassLists:
    """The lists of classes of a source, each read once, when the first label needs it."""

    def __init__(self) -> None:
        self.by_space: dict[str, ClassList] = {}  # those that a label refers to
        self._find = cache(find_class_list)
        self.class_of = cache(self._class_of)

    def _class_of(
        self,
        read: Callable[[str, ClassList | None], ImageClass],
        text: str,
        folders: tuple[str, ...],
    ) -> ImageClass:
        """Read the class of a label with the list in the first of ``folders`` that has one."""
        if not text:
            return UNLABELED
        classes = self._find(folders)
        image_class = read(text, classes)
        if classes is not None and image_class.space == classes.space:
            self.by_space.setdefault(classes.space, classes)
        return image_class


def fill_in_ids_of_names(table: pa.Table) -> pa.Table:
    """Fill in the ids of classes that are identified by name: their order."""
    is_name = pc.equal(table.column("class_space"), NAMES)
    names = table.column("class_name")
    ids = pc.index_in(
        names, pa.array(sorted(pc.unique(names.filter(is_name)).to_pylist()), pa.string())
    )
    at = table.column_names.index("label")
    labels = pc.if_else(is_name, pc.cast(ids, pa.int64()), table.column("label"))
    return table.set_column(at, LISTING_SCHEMA.field("label"), labels)


@dataclass(frozen=True)
class _Archive:
    """A tar or a table: its images, before the classes of their labels are looked up."""

    file: SourceFile
    rows: list[tuple[str, str, str, int, int, str]]  # key, file, member, offset, size, label
    problems: list[Problem]
    copy: Path | None = None
    num_in_folders: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)


def _read_archive(file: SourceFile, unpacked: Path) -> _Archive:
    return _read_table(file) if is_table(file.path) else _read_tar(file, unpacked)


def _read_tar(file: SourceFile, unpacked: Path) -> _Archive:
    source = file.path if is_url(file.path) else Path(file.path)
    tar = plain_tar(source, unpacked)
    copy = tar if isinstance(tar, Path) and tar != source else None
    damage = stream_damage(copy) if copy is not None else ""
    problems = [problem(file.path, "", "damaged_stream", damage)] if damage else []
    index, shard = index_shard(tar), path_text(tar)
    # Problems name the source file, which the user knows, not its uncompressed copy.
    problems += [problem(**entry | {"shard": file.path}) for entry in index.problems]
    failed, missing = read_failed(file.path, len(index.samples))
    problems += missing
    rows = [
        (image.key, shard, member.name, member.offset, member.size, image.label or "")
        for image in index.images
        for member in [image.member]
    ]
    return _Archive(file, rows, problems, copy, _count_in_folders(index.images), failed)


def _read_table(file: SourceFile) -> _Archive:
    """List a table: its images are located by their row, as if it were the offset."""
    images, problems = index_table(file.path)
    shard = path_text(file.path)
    rows = [
        (image.key, shard, f"row {image.row}", image.row, image.size, image.label or "")
        for image in images
    ]
    return _Archive(file, rows, problems)


def _list_archive(archive: _Archive, lists: ClassLists) -> ListedFiles:
    folders = archive.file.list_folders
    rows = [(*row[:5], *lists.class_of(class_of_text, row[5], folders)) for row in archive.rows]
    return ListedFiles(
        table=_table(rows),
        num_files=1,
        is_archive=True,
        problems=archive.problems,
        copy=archive.copy,
        num_in_folders=archive.num_in_folders,
        failed=archive.failed,
    )


def _table(rows: Sequence[Sequence[str | int]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(LISTING_SCHEMA)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)]
    return pa.table(arrays, schema=LISTING_SCHEMA)


def _count_in_folders(images: Sequence[ShardImage]) -> int:
    """Count images whose folders look like class folders, in a tar without any label."""
    if any(image.label for image in images):
        return 0
    return sum("/" in image.member.name.removeprefix("./") for image in images)


def _row_of_file(file: SourceFile, key: str, lists: ClassLists) -> Sequence[str | int]:
    """Return the row of an image in its own file.

    Its class is that of its label in a list, or the first folder below the root.
    """
    parts = PurePath(file.path).relative_to(file.root).parts
    if file.label is None:
        class_folder = path_text(parts[0]) if len(parts) > 1 else ""
        image_class = lists.class_of(class_of_folder, class_folder, (file.root,))
    else:
        image_class = lists.class_of(class_of_text, file.label, (file.root,))
    return (key, path_text(file.path), "", 0, file.size, *image_class)
