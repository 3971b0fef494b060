"""One row per image of a source: its key, its class, and where its bytes are."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.files import path_of_text, path_text
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
from dinoforge.sources.discover import SourceFile, SourceFiles, discover_files, make_real_path
from dinoforge.sources.unpack import plain_tar, stream_damage

__all__ = ["LISTING_SCHEMA", "Listing", "list_files", "list_images", "locate_images"]

LISTING_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # path of the image file or the tar
        ("member", pa.string()),  # name in the tar; "" for an image file
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int64()),  # id of the class in its space; -1: none
        ("class_space", pa.string()),  # "", names, numbers or list:HASH, see `classes`
        ("class_name", pa.string()),  # "" if unknown
    ]
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Images in order, and problems with everything that is not an image."""

    table: pa.Table
    problems: list[Problem]
    unpacked: list[Path] = field(default_factory=list)  # uncompressed copies that the table names
    class_lists: dict[str, ClassList] = field(default_factory=dict)  # by class space


def list_images(paths: Sequence[str], *, unpacked: Path) -> Listing:
    """List the images behind some paths (`discover_files`); uncompress tars in ``unpacked``.

    Raises
    ------
    UsageError
        If a path is missing or contains neither an image nor a tar.
    """
    return list_files(discover_files(paths), unpacked=unpacked)


def list_files(files: SourceFiles, *, unpacked: Path) -> Listing:
    """List the images of discovered files; see `list_images`."""
    columns: list[list[str | int]] = [[] for _ in LISTING_SCHEMA]
    problems: list[Problem] = list(files.problems)
    copies: list[Path] = []
    lists = _ClassLists()
    keys = UniqueKeys()  # of images in files of their own
    in_folders = 0
    for file in files.items:
        if not file.is_tar:
            _append(columns, _row_of_file(file, keys, lists))
            continue
        tar = plain_tar(Path(file.path), unpacked)
        if tar != Path(file.path):
            copies.append(tar)
            if damage := stream_damage(tar):
                problems.append(problem(file.path, "", "damaged_stream", damage))
        index, shard = index_shard(tar), path_text(tar)
        # Problems name the source file, which the user knows, not its uncompressed copy.
        problems.extend(entry | {"shard": file.path} for entry in index.problems)
        in_folders += _count_in_folders(index.images)
        for image in index.images:
            member = image.member
            image_class = lists.class_of(class_of_text, image.label or "", file.list_folders)
            place = (image.key, shard, member.name, member.offset, member.size)
            _append(columns, (*place, *image_class))
    if in_folders:
        _log.info(
            "%d images in folders inside tars have no label: there, only .cls files are labels",
            in_folders,
        )
    arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)]
    printable = [entry | {"shard": path_text(entry["shard"])} for entry in problems]
    table = _with_ids_of_names(pa.table(arrays, schema=LISTING_SCHEMA))
    return Listing(table, printable, copies, lists.by_space)


def locate_images(table: pa.Table) -> list[tuple[str, int]]:
    """Identify images by their file (without links) and offset, whatever path leads to them."""
    real_path = make_real_path()
    place = cache(lambda shard: real_path(path_of_text(shard)))
    shards, offsets = (table.column(name).to_pylist() for name in ("shard", "offset"))
    return [(place(shard), at) for shard, at in zip(shards, offsets, strict=True)]


class _ClassLists:
    """The lists of classes of a source, each read once, when the first label needs it."""

    def __init__(self) -> None:
        self.by_space: dict[str, ClassList] = {}
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
            if classes.rival and classes.space not in self.by_space:
                _log.warning(
                    "two lists of classes differ: %s is used, %s is not - remove one of them",
                    classes.path,
                    classes.rival,
                )
            self.by_space.setdefault(classes.space, classes)
        return image_class


def _with_ids_of_names(table: pa.Table) -> pa.Table:
    """Fill in the ids of classes that are identified by name: their order."""
    is_name = pc.equal(table.column("class_space"), NAMES)
    names = table.column("class_name")
    ids = pc.index_in(
        names, pa.array(sorted(pc.unique(names.filter(is_name)).to_pylist()), pa.string())
    )
    at = table.column_names.index("label")
    labels = pc.if_else(is_name, pc.cast(ids, pa.int64()), table.column("label"))
    return table.set_column(at, LISTING_SCHEMA.field(at), labels)


def _append(columns: list[list[str | int]], row: Iterable[str | int]) -> None:
    for column, value in zip(columns, row, strict=True):
        column.append(value)


def _count_in_folders(images: Sequence[ShardImage]) -> int:
    """Count images whose folders look like class folders, in a tar without any label."""
    if any(image.label for image in images):
        return 0
    return sum("/" in image.member.name.removeprefix("./") for image in images)


def _row_of_file(file: SourceFile, keys: UniqueKeys, lists: _ClassLists) -> Iterable[str | int]:
    """Return the row of an image in its own file; its class is the first folder below the root."""
    relative = PurePath(file.path).relative_to(file.root)
    key = keys.take(path_text(relative.with_suffix("")), path_text(relative.suffix[1:]))
    class_folder = path_text(relative.parts[0]) if len(relative.parts) > 1 else ""
    image_class = lists.class_of(class_of_folder, class_folder, (file.root,))
    return (key, path_text(file.path), "", 0, file.size, *image_class)
