"""Files that images come from, and what a file is by its name or its content."""

from collections.abc import Mapping
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

__all__ = ["SOURCE_REASONS", "TAR_SUFFIXES", "SourceFile", "SourceFiles", "file_kind"]

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
    """Files behind some paths: sorted within each path, paths in the order given."""

    items: list[SourceFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

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
