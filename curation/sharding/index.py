"""The samples of all files: keys, and where the bytes of every member are."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from dinoforge.curation.sharding.tables import (
    FILES_SCHEMA,
    PROBLEMS_SCHEMA,
    SAMPLES_SCHEMA,
    ShardingInputs,
    ShardingStage,
)
from dinoforge.files import path_of_text, path_text
from dinoforge.images import image_suffix
from dinoforge.images.formats import SNIFF_BYTES, has_image_suffix, sniff
from dinoforge.remote import is_url
from dinoforge.shards.image_tables import index_table, is_table
from dinoforge.shards.index import Problem, Sample, index_shard, problem
from dinoforge.shards.reading import RangeReader
from dinoforge.shards.writer import sample_bytes
from dinoforge.sources.classes import ImageClass, class_of_folder, class_of_text, find_class_list
from dinoforge.sources.downloads import read_failed
from dinoforge.sources.unpack import plain_tar, stream_damage
from dinoforge.stages import Json, Output
from dinoforge.tables import read_rows, read_table

__all__ = ["FOLDERS", "IndexStage", "digest"]

FOLDERS = "folders"  # class space of class folders without a list
_MOST_FILES = 65_536  # rows of a partition: small files cost as much to open as to read


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for a key or an id."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


class IndexStage(ShardingStage):
    """List the samples of the tars and files of a range; no image is read."""

    name = "index"
    number = 20
    version = "1.1.0"
    keys = ("ids.field", "classes")
    execution_keys = ("partition_mib",)
    needs = ("discover",)

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan ranges of files with at most `partition_mib`, or one tar."""
        sizes = read_table(inputs.file("discover", "files.parquet"), ["size"]).column(0)
        limit, payloads, first, total = inputs.config.partition_mib << 20, [], 0, 0
        for row, size in enumerate(sizes.to_pylist()):
            if row > first and (total + size > limit or row - first >= _MOST_FILES):
                payloads.append({"first": first, "stop": row})
                first, total = row, 0
            total += size
        return [*payloads, {"first": first, "stop": len(sizes)}]

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:
        """List the samples of the files of a range."""
        path = inputs.file("discover", "files.parquet")
        rows = read_rows([path], payload["first"], payload["stop"]).cast(FILES_SCHEMA)
        listed = _Listed(inputs.config.ids.field, with_classes=inputs.config.classes == "keep")
        out.write_tables("samples", _list(rows, listed, out), SAMPLES_SCHEMA)
        table = pa.Table.from_pylist(listed.problems, PROBLEMS_SCHEMA)
        out.write_table("problems", table, PROBLEMS_SCHEMA)
        return {
            "samples": listed.samples,
            "bytes": listed.num_bytes,
            "spaces": dict(sorted(listed.spaces.items())),
            "class_names": sorted(listed.class_names),
            "not_downloaded": dict(listed.failed),
        }


def _list(rows: pa.Table, listed: "_Listed", out: Output) -> Iterator[pa.Table]:
    for row in rows.to_pylist():
        if row["names"]:
            listed.add_files(row)
        elif is_table(row["path"]):
            listed.add_table(row)
        else:
            listed.add_tar(row, out)
        if len(listed.columns["key"]) >= _MOST_FILES:
            yield listed.take()
    yield listed.take()


@dataclass
class _Listed:
    """The samples since the last `take`, and what was met in all of them."""

    id_field: str
    with_classes: bool
    samples: int = 0
    num_bytes: int = 0  # of all members
    problems: list[Problem] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # what img2dataset did not get: by status
    spaces: dict[str, str] = field(default_factory=dict)  # class space -> a source that has it
    class_names: set[str] = field(default_factory=set)  # of class folders without a list
    unpacked: set[Path] = field(default_factory=set)
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in SAMPLES_SCHEMA.names}
    )

    def __post_init__(self) -> None:
        self._reader = RangeReader()
        self._find_list = cache(find_class_list)
        self._class_of = cache(self._read_class)

    def take(self) -> pa.Table:
        """Return the samples since the last call."""
        arrays = [pa.array(self.columns[field.name], field.type) for field in SAMPLES_SCHEMA]
        for column in self.columns.values():
            column.clear()
        return pa.table(arrays, schema=SAMPLES_SCHEMA)

    def add_tar(self, row: dict[str, Any], out: Output) -> None:
        """Add the samples of a tar; a compressed one is unpacked first."""
        source = row["path"] if is_url(row["path"]) else Path(path_of_text(row["path"]))
        tar = plain_tar(source, out.folder / "unpacked")
        if isinstance(tar, Path) and tar != source:
            if tar not in self.unpacked:
                self.unpacked.add(out.add(tar))
            if damage := stream_damage(tar):
                self.problems.append(problem(row["path"], "", "damaged_stream", damage))
        index, file = index_shard(tar), [path_text(tar)]
        failed, missing = read_failed(path_of_text(row["path"]), len(index.samples))
        self.failed.update(failed)
        self.problems += [entry | {"shard": row["path"]} for entry in (*index.problems, *missing)]
        folders = tuple(map(path_of_text, row["list_folders"]))
        for sample in index.samples:
            for text in sample.labels.values():
                self._note_space(
                    self._class_of(text, folders, is_folder=False), row["path"], folders
                )
            extensions = [
                member.extension or self._sniffed(file[0], member.name, member.offset)
                for member in sample.members.values()
            ]
            offsets = [member.offset for member in sample.members.values()]
            sizes = [member.size for member in sample.members.values()]
            self._append(sample.key, file, extensions, offsets, sizes, _image_of(sample))

    def add_table(self, row: dict[str, Any]) -> None:
        """Add a sample per image of a table; its label becomes a class."""
        folders = tuple(map(path_of_text, row["list_folders"]))
        images, problems = index_table(path_of_text(row["path"]))
        self.problems += [entry | {"shard": row["path"]} for entry in problems]
        for image in images:
            named = self.with_classes and self._class_of(
                image.label or "", folders, is_folder=False
            )
            image_class = named if named and named.space else None
            if image_class is not None:
                self._note_space(image_class, row["path"], folders, is_folder=True)
            key, place = image.key.replace(".", "_"), ([image.suffix], [image.row], [image.size])
            self._append(key, [row["path"]], *place, 0, image_class)

    def add_files(self, row: dict[str, Any]) -> None:
        """Add the one sample of some files."""
        folder, root = path_of_text(row["path"]), path_of_text(row["root"])
        names = [path_of_text(name) for name in row["names"]]
        stem, dot, _ = names[0].rpartition(".")
        inside = PurePath(folder).relative_to(root)
        # Readers split a name at the first dot of its last part.
        key = path_text(inside / (stem if dot else names[0]).replace(".", "_"))
        files = [path_text(f"{folder}/{name}" if folder != "." else name) for name in names]
        extensions = [
            name.rpartition(".")[2].lower() if "." in name else self._sniffed(file, name, 0)
            for name, file in zip(names, files, strict=True)
        ]
        image_class, lists = None, (root,)
        if self.with_classes and "cls" in extensions:
            at = extensions.index("cls")
            text = self._reader.read(files[at], 0, min(row["sizes"][at], 256)).decode(
                "utf-8", "replace"
            )
            self._note_space(self._class_of(text, lists, is_folder=False), files[at], lists)
        elif self.with_classes and inside.parts:
            image_class = self._class_of(path_text(inside.parts[0]), lists, is_folder=True)
            self._note_space(image_class, files[0], lists, is_folder=True)
        images = [at for at, name in enumerate(names) if has_image_suffix(name)]
        offsets = [0] * len(files)
        self._append(key, files, extensions, offsets, row["sizes"], (images or [0])[0], image_class)

    def _append(
        self,
        key: str,
        files: list[str],
        extensions: list[str],
        offsets: list[int],
        sizes: list[int],
        image: int,
        image_class: ImageClass | None = None,
    ) -> None:
        label = "" if image_class is None else image_class.name or str(image_class.label)
        members = zip(extensions, sizes, strict=True)
        in_shard = sample_bytes(key, members) + (1024 if label else 0)
        row = (key, files, extensions, offsets, sizes, image, label)
        number = -1 if image_class is None else image_class.label
        row_id = self._id(files, extensions, offsets, sizes) if self.id_field else None
        values = (*row, number, in_shard, digest(key), row_id)
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        self.samples += 1
        self.num_bytes += sum(sizes)

    def _id(
        self, files: list[str], extensions: list[str], offsets: list[int], sizes: list[int]
    ) -> bytes | None:
        """Return the digest of the field of the ``.json`` member that names the sample."""
        if "json" not in extensions:
            return None
        at = extensions.index("json")
        try:
            data = self._reader.read(files[at if len(files) > 1 else 0], offsets[at], sizes[at])
            return digest(str(json.loads(data)[self.id_field]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _sniffed(self, file: str, name: str, offset: int) -> str:
        """Return a suffix for an image that has none in its name."""
        try:
            head = self._reader.read(file, offset, SNIFF_BYTES)
        except OSError:
            return "bin"
        return image_suffix(name, sniff(head) or "bin")

    def _read_class(self, text: str, folders: tuple[str, ...], *, is_folder: bool) -> ImageClass:
        read = class_of_folder if is_folder else class_of_text
        return read(text, self._find_list(folders))

    def _note_space(
        self,
        image_class: ImageClass,
        where: str,
        folders: tuple[str, ...],
        *,
        is_folder: bool = False,
    ) -> None:
        """Remember a class space, with its list or the first source that has it."""
        if not image_class.space or not self.with_classes:
            return
        space = image_class.space
        if classes := self._find_list(folders):
            where = classes.path if classes.space == space else where
        if is_folder and image_class.label < 0:
            space = FOLDERS
            self.class_names.add(image_class.name)
        self.spaces.setdefault(space, where)


def _image_of(sample: Sample) -> int:
    """Return which member is the image; -1: none."""
    image = sample.image
    return -1 if image is None else list(sample.members.values()).index(image)
