"""Publish a finished run in an object store: shards and ``published``, then the marker."""

import logging
from pathlib import Path

from dinoforge.curated import PUBLISHED, UPLOADED, shards_folder
from dinoforge.remote.store import list_objects
from dinoforge.remote.upload import upload_files

__all__ = ["check_target", "upload_published"]

_log = logging.getLogger(__name__)


def check_target(to: str) -> None:
    """Check that the bucket is there, and that it answers, before hours of work.

    Raises
    ------
    UsageError
        If it is not, or a package is missing.
    """
    list_objects(to)


def upload_published(run_folder: Path, to: str) -> None:
    """Upload what a finished run has published, unless it is there.

    Raises
    ------
    UsageError
        See `upload_files`.
    """
    folders = (shards_folder(run_folder), run_folder / PUBLISHED)
    files = {
        path.relative_to(run_folder).as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    done = upload_files(files, to, UPLOADED)
    _log.info("%s: %d objects sent, %d were there", to, done.sent, done.present)
