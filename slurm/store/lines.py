"""Append-only files of JSON lines: one ``write`` a line, a torn last line is skipped by readers."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["append_line", "read_lines"]


def append_line(path: Path, line: dict[str, Any], *, durable: bool = False) -> None:
    """Append one line; ``durable`` waits for the disk.

    A line that a killed writer left without its end is closed first, so that it spoils nothing.
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
    """Read every whole line; none when the file is missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
