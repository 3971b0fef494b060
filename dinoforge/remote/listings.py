"""Listings of buckets: each is made once per run, kept as a table, and read from then on.

A listing costs a request per thousand objects, one after the other, and what it returns may change
while a run goes on. To list again, the user removes the table.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import filelock
import pyarrow as pa

from dinoforge.files import hash_json
from dinoforge.remote.store import RemoteObject, find_object, list_objects
from dinoforge.tables import read_table, write_table

__all__ = ["find_objects_once", "list_once", "listings_folder"]

_SCHEMA = pa.schema([("url", pa.string()), ("size", pa.int64()), ("version", pa.string())])
_REQUESTS = 16  # at a time

_log = logging.getLogger(__name__)


def listings_folder(run_folder: Path) -> Path | None:
    """Return where a run keeps its listings; None for one that is only planned: nothing is kept."""
    return run_folder / "cache/listings" if run_folder.is_dir() else None


def list_once(url: str, kept: Path | None) -> list[RemoteObject]:
    """List all objects below a URL, or read the table in ``kept`` that an earlier call wrote.

    Raises
    ------
    UsageError
        If the bucket does not exist; see `request`.
    """
    return _once(url, kept, lambda: list_objects(url), hash_json(["below", url]))


def find_objects_once(
    urls: Sequence[str], kept: Path | None, where: str
) -> dict[str, RemoteObject]:
    """Look up the single objects that the list ``where`` names; those that exist, by URL.

    A request per object, also only once.
    """

    def look() -> list[RemoteObject]:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return [one for one in pool.map(find_object, urls) if one is not None]

    objects = _once(where, kept, look, hash_json(["each", *urls]))
    return {one.url: one for one in objects}


def _once(
    what: str, kept: Path | None, look: Callable[[], list[RemoteObject]], key: str
) -> list[RemoteObject]:
    if kept is None:
        return look()
    kept.mkdir(parents=True, exist_ok=True)
    table = kept / f"{key[:16]}.parquet"
    with filelock.FileLock(kept / ".lock"):  # ranks of a training start at the same time
        if table.exists():
            objects = [RemoteObject(**row) for row in read_table(table).to_pylist()]
            _report_once(what, table, len(objects))
            return objects
        objects = look()
        rows = [{name: getattr(one, name) for name in _SCHEMA.names} for one in objects]
        write_table(table, pa.Table.from_pylist(rows, _SCHEMA), _SCHEMA)
    _log.debug("%s: %d objects listed", what, len(objects))
    return objects


@cache
def _report_once(what: str, table: Path, num_objects: int) -> None:
    listed = datetime.fromtimestamp(table.stat().st_mtime, UTC).isoformat(" ", "minutes")
    text = "%s: %d objects as listed at %s; to list again, remove %s"
    _log.info(text, what, num_objects, listed, table)
