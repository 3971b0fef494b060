"""Write files atomically, and hash them.

Readers see a whole file or none, whenever the writer is killed. Order: temporary file in the same
folder, fsync, rename, fsync of the folder.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Callable
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any, BinaryIO

from dinoforge.errors import cannot_write

__all__ = [
    "decode_text",
    "fsync_folder",
    "hash_json",
    "is_temporary",
    "open_regular",
    "path_of_text",
    "path_text",
    "read_object",
    "read_regular",
    "sha256_file",
    "temporary_name",
    "write_array",
    "write_atomic",
    "write_bytes",
    "write_json",
    "write_text",
]


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Decode text that any editor saved: UTF-8, or UTF-16 with a byte order mark; drop the mark."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", errors)


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(path: Path) -> Path:
    """Return the name of the temporary file beside ``path``.

    It contains the host, because process ids repeat between the hosts of a shared folder.
    """
    return path.with_name(f".{path.name}.tmp-{platform.node()}-{os.getpid()}")


_TEMPORARY = re.compile(r"\..+\.tmp-.+-\d+", re.ASCII | re.DOTALL)


def is_temporary(path: Path) -> bool:
    """Return whether a path has a name that `temporary_name` makes."""
    return _TEMPORARY.fullmatch(path.name) is not None


def open_regular(path: Path | str) -> int:
    """Open a file that may be anything for reading: return its descriptor, never wait.

    Raises
    ------
    OSError
        If it is not a regular file or cannot be opened.
    """
    # A pipe would wait for a writer; without blocking, opening it has no effect.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return handle


def read_regular(path: Path | str, limit: int = -1) -> bytes:
    """Read a file, at most ``limit`` bytes, that may be anything; see `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(limit)


_BACKSLASH = re.compile(rb"\\(?=x[0-9a-f]{2})")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON object; empty if there is none, or the file is damaged."""
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def path_text(path: PurePath | str) -> str:
    r"""Return a path as text for tables: a byte that is not UTF-8 becomes ``\xNN``.

    So does the backslash of a name that has these four characters: no two paths share a text.
    """
    return _BACKSLASH.sub(rb"\\x5c", os.fsencode(path)).decode("utf-8", "backslashreplace")


def path_of_text(text: str) -> str:
    """Return the path of a text made by `path_text`."""
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text)))


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call ``write`` with an open temporary file, then rename it to ``path``.

    Raises
    ------
    UsageError
        If the folder is read-only or the disk is full; an older ``path`` is kept.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    write_atomic(path, lambda file: file.writelines([data]))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically, UTF-8."""
    write_bytes(path, text.encode())


def write_array(path: Path, array: Any) -> None:
    """Write a NumPy array atomically as ``.npy``.

    NumPy gets an object with ``write`` only: for a real file it reports a full disk as "1000
    requested and 10 written".
    """
    import numpy as np

    def save(file: BinaryIO) -> None:
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)

    write_atomic(path, save)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with sorted keys (equal values, equal bytes)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys): 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces: 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
