"""Tars that a command or standard input gives: copied into the run, as they are read only once.

The notation is WebDataset's. Its own reader takes the status of the last command of a pipeline for
that of all, and a broken pipe for success: here, no failure and no archive that is cut passes.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from dinoforge.errors import UsageError, first_line
from dinoforge.files import hash_json, read_regular, sha256_file, write_atomic, write_json
from dinoforge.pages.formatting import bytes_size
from dinoforge.remote.urls import is_stream
from dinoforge.shards.tar import BLOCK, TarWalk, is_header
from dinoforge.sources.unpack import plain_tar, stream_damage

__all__ = ["copy_streams", "find_stream_copy"]

_PIECE_BYTES = 1 << 22
_log = logging.getLogger(__name__)


def copy_streams(paths: Iterable[str], run_folder: Path) -> None:
    """Copy the streams among the paths of a recipe, unless they were copied before.

    A copy is an uncompressed tar named by its content. One that was killed begins again.

    Raises
    ------
    UsageError
        If a command fails, or what it gives is no tar, or a tar that is cut.
    """
    folder = _folder(run_folder)
    for stream in dict.fromkeys(filter(is_stream, paths)):
        if (copy := find_stream_copy(stream, run_folder)) is not None:
            _log.info("%s: copied before, to %s", _shown(stream), copy)
            continue
        raw = folder / "incoming.tar"
        write_atomic(raw, partial(_read, stream))
        plain = Path(plain_tar(raw, folder))
        _check(stream, plain)
        digest, num_bytes = sha256_file(plain), plain.stat().st_size
        copy = plain.replace(folder / f"stream-{digest[:16]}.tar")
        os.utime(copy, ns=(0, 0))  # equal content is an equal source
        raw.unlink(missing_ok=True)
        write_json(_note(stream, folder), {"copy": copy.name, "bytes": num_bytes, "sha256": digest})
        _log.info("%s: %s copied to %s", _shown(stream), bytes_size(num_bytes), copy)


def find_stream_copy(stream: str, run_folder: Path) -> Path | None:
    """Return the copy of a stream; None if it was not read to its end."""
    folder = _folder(run_folder)
    try:
        copy = folder / json.loads(read_regular(_note(stream, folder)))["copy"]
    except FileNotFoundError:
        return None
    return copy if copy.exists() else None


def _folder(run_folder: Path) -> Path:
    return run_folder / "cache/streams"


def _note(stream: str, folder: Path) -> Path:
    return folder / f"{hash_json(stream)[:16]}.json"


def _shown(stream: str) -> str:
    """Return a stream as messages show it: the rest of a command may be private."""
    program, *rest = stream.split(maxsplit=1)
    return f"{program} ..." if rest else program


def _read(stream: str, file: BinaryIO) -> None:
    with _open(stream) as source:
        try:
            while piece := source.read(_PIECE_BYTES):
                file.write(piece)
        except ValueError as error:  # standard input is closed
            raise _fault(stream, first_line(error)) from error


@contextlib.contextmanager
def _open(stream: str) -> Iterator[IO[bytes]]:
    if stream == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise _fault(stream, "standard input is a terminal")
        yield sys.stdin.buffer
        return
    # Of a pipeline every command counts, not only the last one.
    command = ["bash", "-o", "pipefail", "-c", stream.removeprefix("pipe:")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None, "a pipe was asked for"
    try:
        yield process.stdout
        if code := process.wait():
            raise _fault(stream, f"the command failed with exit code {code}")
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _check(stream: str, plain: Path) -> None:
    """Refuse what is no tar, and a tar that is cut: of standard input no status is known."""
    reason = stream_damage(plain)
    with plain.open("rb") as file:
        descriptor, num_bytes = file.fileno(), plain.stat().st_size
        if not num_bytes:
            reason = "it is empty"
        elif not is_header(file.read(BLOCK)):
            reason = "it is no tar"
        elif not reason:
            walk = TarWalk(lambda size, at: os.pread(descriptor, size, at), num_bytes)
            for _ in walk:
                pass
            reason = walk.ending.reason or ""
    if reason:
        plain.unlink()
        raise _fault(stream, f"the stream is no whole tar: {reason.replace('_', ' ')}")


def _fault(stream: str, what: str) -> UsageError:
    do = "pipe one whole tar into the command" if stream == "-" else "run the command by itself"
    return UsageError(what=what, where=_shown(stream), do=do)
