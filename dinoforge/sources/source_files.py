"""Files that images come from, and what a file is by its name or its content."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dinoforge.files import hash_json, read_regular
from dinoforge.images.formats import SNIFF_BYTES, has_image_suffix, sniff
from dinoforge.remote import is_url
from dinoforge.remote.store import read_object
from dinoforge.shards.image_tables import has_images, is_table
from dinoforge.shards.index import Problem, problem
from dinoforge.shards.tar import BLOCK
from dinoforge.sources.classes import find_class_list
from dinoforge.sources.unpack import uncompressed_start

__all__ = [
    "SOURCE_REASONS",
    "TAR_SUFFIXES",
    "SourceFile",
    "SourceFiles",
    "file_kind",
    "is_about",
    "is_beside_image",
]

SOURCE_REASONS: Mapping[str, str] = {
    "other_file": "no image, tar or table with images, by name and by content: skipped",
    "unreadable": "it cannot be opened or read",
    "not_regular": "a pipe, socket or device: not opened",
    "hidden": "an image or tar whose name begins with a dot: skipped",
    "hidden_folder": "its name begins with a dot: skipped, with all that is in it",
    "same_file": "the same file or folder again, by a link or listed twice: read once",
    "missing_shard": "exported by the curation, but no longer there",
    "own_output": "written by dinoforge: skipped, unless its own path is given",
}

TAR_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".taz", ".tar.bz2", ".tbz2", ".tbz", ".tb2", ".tz2", ".tar.xz"),
    *(".txz", ".tar.zst", ".tzst"),
    *(".tar.lzma", ".tlz", ".tar.lz", ".tar.lz4", ".tar.z"),  # refused by name
)
_TAR_MAGIC = slice(257, 262)  # of the first header


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An image in its own file or object, or an archive of images: a tar or a table.

    ``root`` is the folder it was found in: keys and class folders are below it.
    """

    path: str
    root: str
    size: int
    mtime_ns: int
    is_archive: bool = False
    label: str | None = None  # of an image in a list of files, as the text of a ``.cls``; "": none
    version: str = ""  # of an object, in place of a time
    # of an archive: where its list of classes may be, nearest first
    list_folders: tuple[str, ...] = ()


@dataclass
class SourceFiles:
    """Files behind some paths: sorted within each path, paths in the order given.

    ``beside`` are the side data of images in files of their own: `is_beside_image`. ``failed``
    counts, by status, what img2dataset did not get of the images of a folder.
    """

    items: list[SourceFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def add_problem(self, path: str, reason: str, detail: str = "") -> None:
        """Note a file or folder that gives no image; ``reason`` is one of `SOURCE_REASONS`."""
        self.problems.append(problem(path, "", reason, detail))

    def fingerprint(self) -> str:
        """Hash names, sizes and times of all files, and the lists of classes.

        It changes when a file is added, removed or replaced.
        """
        rows: list[list[str | int]] = [
            [at.path, at.size, at.version or at.mtime_ns, *filter(None, [at.label])]
            for at in self.items
        ]
        folders = {file.list_folders or (file.root,) for file in self.items}
        lists = map(find_class_list, sorted(folders))
        rows += [[classes.path, classes.space] for classes in lists if classes is not None]
        return hash_json(rows)


def is_beside_image(name: str, image_stems: Collection[str]) -> bool:
    """Return whether a file is side data: ``KEY.json`` or ``KEY.txt`` beside an image ``KEY.*``."""
    stem, _, suffix = name.rpartition(".")
    return suffix in ("json", "txt") and stem in image_stems


def is_about(name: str, names: Collection[str], folders: Collection[str]) -> bool:
    """Return whether a file is about another one, or a folder, as those that img2dataset writes.

    ``NAME.json``, ``NAME.parquet`` and ``NAME_stats.json`` beside ``NAME.tar``; ``NAME.parquet``
    beside the folder ``NAME`` of its images; ``NAME_stats.json`` beside any of them.
    """
    stem, _, suffix = name.rpartition(".")
    of, is_stats = stem.removesuffix("_stats"), stem.endswith("_stats")
    if f"{of}.tar" in names:
        return suffix in ("json", "parquet")
    if suffix == "json":
        return is_stats and (of in folders or f"{of}.parquet" in names)
    return suffix == "parquet" and stem in folders and f"{stem}_stats.json" in names


def file_kind(path: str) -> str:
    """Return what a file is by its name, else by its content: tar, table, image or other_file."""
    if is_table(path):
        return "table" if has_images(path) else "other_file"
    if path.lower().endswith(TAR_SUFFIXES):
        return "tar"
    if has_image_suffix(path):
        return "image"
    head = read_object(path, BLOCK) if is_url(path) else read_regular(path, BLOCK)
    if sniff(head[:SNIFF_BYTES], path.rpartition(".")[2].lower()) is not None:
        return "image"
    start = uncompressed_start(path, head)
    return "tar" if start[_TAR_MAGIC] == b"ustar" else "other_file"
