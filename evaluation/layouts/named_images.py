"""Images that a data set names in its lists, as rows of a listing; nothing is decoded."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.stored import StoredFile, first_missing
from dinoforge.files import path_text
from dinoforge.images import DecodePolicy
from dinoforge.images.formats import has_image_suffix
from dinoforge.sources.image_set import ImageSet
from dinoforge.sources.listing import LISTING_SCHEMA

__all__ = ["images_in", "open_named", "open_stored"]


def open_named(
    root: Path, names: Sequence[str], *, layout: str, policy: DecodePolicy | None = None
) -> ImageSet:
    """Open files below ``root`` in the order of ``names``; the key is the name without its suffix.

    Their labels are -1: the truth of these data sets is elsewhere. A name may be repeated.

    Raises
    ------
    UsageError
        That names the first missing file, or one that is no file.
    """
    rows: list[tuple[str | int, ...]] = []
    for name in names:
        path = root / name
        try:
            status = path.stat()
        except OSError:
            first_missing([path], layout=layout)
            raise
        if not stat.S_ISREG(status.st_mode):
            what = f"not a file, but {layout} names it"
            do = "give the root of the unpacked data set, complete"
            raise UsageError(what=what, where=str(path), do=do)
        key = path_text(name.removesuffix(Path(name).suffix))
        rows.append((key, path_text(path), "", 0, status.st_size, -1, "", ""))
    return _image_set(rows, policy)


def open_stored(files: Sequence[StoredFile], *, policy: DecodePolicy | None = None) -> ImageSet:
    """Open files and members of tars in the given order; keys are their paths, labels are -1.

    Raises
    ------
    UsageError
        If a file is missing.
    """
    rows: list[tuple[str | int, ...]] = []
    for file in files:
        size = file.size
        if not file.member:
            first_missing([Path(file.path)], layout="the data set")
            size = Path(file.path).stat().st_size
        row = path_text(str(file)), path_text(file.path), file.member, file.offset, size, -1, "", ""
        rows.append(row)
    return _image_set(rows, policy)


def _image_set(rows: list[tuple[str | int, ...]], policy: DecodePolicy | None) -> ImageSet:
    columns = list(zip(*rows, strict=True)) or [()] * len(LISTING_SCHEMA)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)]
    return ImageSet(pa.table(arrays, schema=LISTING_SCHEMA), policy or DecodePolicy())


def images_in(folder: Path, *, layout: str) -> list[str]:
    """Name the images directly in a folder, sorted.

    Raises
    ------
    UsageError
        If there is no such folder, or no image in it.
    """
    first_missing([folder], layout=layout)
    if folder.is_dir():
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
        names = sorted(n for n in names if has_image_suffix(n) and not n.startswith("."))
        if names:
            return names
    what, do = f"no images for {layout}", "give the root of the unpacked data set, complete"
    raise UsageError(what=what, where=str(folder), do=do)


def with_distractors(images: ImageSet, distractors: ImageSet) -> ImageSet:
    """Append images that match no query, such as Oxford's million; indices of the others stay."""
    table = pa.concat_tables([images.table, distractors.table])
    problems = [*images.problems, *distractors.problems]
    lists = distractors.class_lists | images.class_lists
    failed = images.failed + distractors.failed
    return ImageSet(table, images.policy, problems, lists, failed)
