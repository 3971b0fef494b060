"""Lists behind paths or URLs: a copy on this machine, and what changes with the content."""

import io
import shutil
from pathlib import Path

from dinoforge.errors import UsageError
from dinoforge.files import hash_json, sha256_file, write_atomic
from dinoforge.remote.reading import RemoteStream
from dinoforge.remote.store import RemoteObject, find_object
from dinoforge.remote.urls import is_url

__all__ = ["fingerprint_list", "local_copy"]

_PIECE_BYTES = 1 << 22


def fingerprint_list(path: str) -> str:
    """Return a hash that changes with a file; of an object, that is not read, with its version.

    Raises
    ------
    UsageError
        If there is no such object.
    """
    if not is_url(path):
        return sha256_file(Path(path))
    one = _find(path)
    return hash_json([one.url, one.size, one.version])


def local_copy(path: str, folder: Path) -> Path:
    """Return the path of a file; of an object that of its copy in ``folder``, made if missing.

    Raises
    ------
    UsageError
        If there is no such object, or the copy cannot be written.
    """
    if not is_url(path):
        return Path(path)
    copy = folder / f"{fingerprint_list(path)[:8]}-{path.rpartition('/')[2]}"
    if not copy.exists():
        stream = io.BufferedReader(RemoteStream(path), _PIECE_BYTES)
        write_atomic(copy, lambda file: shutil.copyfileobj(stream, file, _PIECE_BYTES))
    return copy


def _find(url: str) -> RemoteObject:
    if (one := find_object(url)) is None:
        raise UsageError(what="no such object", where=url, do="check the URL")
    return one
