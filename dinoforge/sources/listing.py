"""One row an image of a source: its key, its class, and where its bytes are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from dinoforge.shards import Problem, Sample, index_shard, readable
from dinoforge.sources.discover import ImageFile, SourceFiles, discover_files
from dinoforge.sources.unpack import plain_tar

__all__ = [
    "LISTING_SCHEMA",
    "ClassNames",
    "Listing",
    "class_of_file",
    "list_files",
    "list_images",
]

LISTING_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # path of the file or the tar
        ("member", pa.string()),  # name in the tar; "" for a file of its own
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),  # of `.cls`, or the number of the class folder; -1: none
        ("class_name", pa.string()),  # "" where none is known
    ]
)


@dataclass(frozen=True)
class Listing:
    """Images in order, and what was found that is none."""

    table: pa.Table
    problems: list[Problem]
    unpacked: list[Path] = field(default_factory=list)  # uncompressed copies that it refers to


def list_images(paths: Sequence[str], *, unpacked: Path) -> Listing:
    """List the images that some paths lead to.

    Parameters
    ----------
    paths : sequence of str
        See `discover_files`.
    unpacked : Path
        Folder for tars that have to be uncompressed before they can be read by offset.

    Raises
    ------
    UsageError
        If a path is missing or holds neither an image nor a tar.
    """
    return list_files(discover_files(paths), unpacked=unpacked)


def list_files(files: SourceFiles, *, unpacked: Path) -> Listing:
    """List the images of files already found: samples of a tar in its order."""
    columns: dict[str, list[str | int]] = {name: [] for name in LISTING_SCHEMA.names}
    problems: list[Problem] = list(files.problems)
    copies: list[Path] = []
    names = ClassNames()
    numbers = _folder_classes(files.images)
    for item in files.items:
        if isinstance(item, ImageFile):
            class_name = class_of_file(item.path, item.root)
            row: list[str | int] = [
                _key_of_file(item),
                item.path,
                "",
                0,
                item.size,
                numbers.get(class_name, -1),
            ]
            _append(columns, [*row, class_name])
            continue
        tar = plain_tar(Path(item), unpacked)
        if tar != Path(item):
            copies.append(tar)
        index = index_shard(tar)
        # Under the name that the user knows, not that of an unpacked copy.
        problems.extend(found | {"shard": item} for found in index.problems)
        for sample in index.samples:
            row_of_sample = _row_of_sample(sample, str(tar), names.beside(Path(item)))
            if row_of_sample is not None:
                _append(columns, row_of_sample)
    arrays = [pa.array(columns[field.name], field.type) for field in LISTING_SCHEMA]
    told = [found | {"shard": _text(found["shard"])} for found in problems]
    return Listing(pa.table(arrays, schema=LISTING_SCHEMA), told, copies)


def _append(columns: dict[str, list[str | int]], row: Sequence[str | int]) -> None:
    for name, value in zip(LISTING_SCHEMA.names, row, strict=True):
        columns[name].append(_text(value) if isinstance(value, str) else value)


def _text(name: str) -> str:
    """Make a file name fit for a table: bytes that are no UTF-8 are written out."""
    return name if name.isprintable() else readable(os.fsencode(name))


def _folder_classes(images: Sequence[ImageFile]) -> dict[str, int]:
    """Give the class folders numbers by name, over all paths together."""
    found = {class_of_file(image.path, image.root) for image in images} - {""}
    return {name: number for number, name in enumerate(sorted(found))}


def _key_of_file(image: ImageFile) -> str:
    """Path below the root, without the suffix."""
    relative = PurePosixPath(Path(image.path).relative_to(image.root).as_posix())
    return str(relative.with_suffix(""))


def _row_of_sample(sample: Sample, shard: str, names: Sequence[str]) -> Sequence[str | int] | None:
    image = sample.image
    if image is None:
        return None  # counted by the index: no_image
    label, class_name = -1, ""
    text = sample.label or ""
    if text.isascii() and text.isdigit():
        label = int(text)
        class_name = names[label] if label < len(names) else ""
    elif text:
        class_name = text
        label = names.index(text) if text in names else -1
    return [sample.key, shard, image.name, image.offset, image.size, label, class_name]


def class_of_file(path: str, root: str) -> str:
    """Name the class of an image: the first folder below ``root``; "" right in it."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


class ClassNames:
    """Lists of class names beside tars: ``classes.txt`` (one a line) or ``classes.tsv``."""

    def __init__(self) -> None:
        self._known: dict[Path, list[str]] = {}

    def beside(self, tar: Path) -> Sequence[str]:
        """Names by label, for the tars of one folder; empty without a list."""
        folder = tar.parent
        if folder not in self._known:
            self._known[folder] = _from_txt(folder) or _from_tsv(folder)
        return self._known[folder]


def _from_txt(folder: Path) -> list[str]:
    return [line.strip() for line in _lines(folder / "classes.txt") if line.strip()]


def _from_tsv(folder: Path) -> list[str]:
    """Rows ``label <tab> ... <tab> name``; anything else is not such a list."""
    names: list[str] = []
    for line in _lines(folder / "classes.tsv"):
        cells = line.split("\t")
        if len(cells) < 2 or cells[0] != str(len(names)):
            return []
        names.append(cells[-1].strip())
    return names


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
