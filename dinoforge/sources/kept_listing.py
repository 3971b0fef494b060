"""The images behind some paths; of buckets they are listed once, and the listing is kept.

The headers of remote tars take many requests, and each rank of a training needs the same table.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import filelock

from dinoforge.files import read_regular, write_json
from dinoforge.remote import is_url
from dinoforge.shards.index import problem
from dinoforge.sources.classes import ClassList, find_class_list
from dinoforge.sources.discover import SourceFiles, discover_files
from dinoforge.sources.listing import LISTING_SCHEMA, Listing, list_files, printable
from dinoforge.tables import read_table, write_table

__all__ = ["list_images"]


def list_images(paths: Sequence[str], *, unpacked: Path, listings: Path | None = None) -> Listing:
    """List the images behind some paths (`discover_files`); uncompress tars in ``unpacked``.

    ``listings`` is the folder of what was listed of buckets before.

    Raises
    ------
    UsageError
        If a path is missing or contains neither an image nor an archive of images.
    """
    files = discover_files(paths, listings)
    if listings is None or not any(is_url(file.path) for file in files.items):
        return list_files(files, unpacked=unpacked)
    table = listings / f"images-{files.fingerprint()[:16]}.parquet"
    with filelock.FileLock(listings / ".images-lock"):
        if (kept := _read(table, files, unpacked)) is not None:
            return kept
        listing = list_files(files, unpacked=unpacked)
        notes = {
            "problems": listing.problems[len(files.problems) :],
            "failed": dict(listing.failed - files.failed),
            "unpacked": [str(path) for path in listing.unpacked],
            "class_lists": [[space, one.path] for space, one in listing.class_lists.items()],
        }
        write_json(table.with_suffix(".json"), notes)
        write_table(table, listing.table, LISTING_SCHEMA)
    return listing


def _read(table: Path, files: SourceFiles, unpacked: Path) -> Listing | None:
    """Read what was kept of the same files; None if there is nothing, or what it names is gone."""
    if not table.exists():
        return None
    notes = json.loads(read_regular(table.with_suffix(".json")))
    if "failed" not in notes:  # listed before these were counted
        return None
    copies = [Path(path) for path in notes["unpacked"]]
    if not all(copy.is_relative_to(unpacked) and copy.exists() for copy in copies):
        return None
    lists: dict[str, ClassList] = {}
    for space, path in notes["class_lists"]:
        classes = find_class_list([path.rpartition("/")[0] or "."])
        if classes is None or classes.space != space:
            return None
        lists[space] = classes
    problems = [*map(printable, files.problems), *(problem(**one) for one in notes["problems"])]
    failed = files.failed + Counter(notes["failed"])
    return Listing(read_table(table), problems, copies, lists, failed)
