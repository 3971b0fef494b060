"""Append-only files of JSON lines: one ``write`` per line; readers skip a torn last line."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["append_line", "read_lines"]


def append_line(path: Path, line: dict[str, Any], *, durable: bool = False) -> None:
    """Append one line; ``durable`` waits for the disk.

    An incomplete line of a killed writer is terminated first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        os.write(handle, data)
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read every complete line; none if there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    values = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]
