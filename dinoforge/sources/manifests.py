"""Lists of files: CSV or JSON lines with a path per row, and perhaps a label."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinoforge.errors import UsageError, first_line, some_of
from dinoforge.files import decode_text, read_regular
from dinoforge.remote import is_url

__all__ = ["is_manifest", "read_manifest"]

_PATHS = ("path", "file_name", "filename", "file", "image")
_LABELS = ("label", "cls", "class")


def is_manifest(path: str) -> bool:
    """Return whether a file lists others, by its name."""
    return path.lower().endswith((".csv", ".jsonl"))


def read_manifest(path: str) -> Iterator[tuple[str, str | None]]:
    """Yield path or URL and label of every row; relative paths are below the folder of the list.

    Without a column of labels they are None; "" is no label.

    Raises
    ------
    UsageError
        If it cannot be read, a row is damaged, or no column is named like one of paths.
    """
    try:
        text = decode_text(read_regular(path))
    except (OSError, UnicodeDecodeError) as error:
        do = "make it readable: UTF-8 text"
        raise UsageError(what=first_line(error), where=path, do=do) from error
    rows = _read_csv(path, text) if path.lower().endswith(".csv") else _read_lines(path, text)
    folder = Path(path).parent
    for line, row in rows:
        name = next((name for name in _PATHS if name in row), None)
        if name is None or not isinstance(row[name], str) or not row[name]:
            raise UsageError(
                what=f"no path in line {line}, which has {some_of(row) or 'nothing'}",
                where=path,
                do=f"name the column of paths {', '.join(_PATHS[:-1])} or {_PATHS[-1]}",
            )
        label = next((_text(row[label]) for label in _LABELS if label in row), None)
        yield row[name] if is_url(row[name]) else str(folder / row[name]), label


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _read_csv(path: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    fault = ""
    try:
        for row in reader:
            if fault := "more values than columns" if "" in row else "":
                break
            yield reader.line_num, row
    except csv.Error as error:
        fault = first_line(error)
    if fault:
        raise UsageError(what=f"line {reader.line_num}: {fault}", where=path, do="fix the line")


def _read_lines(path: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            what = f"line {number} is not JSON: {first_line(error)}"
            raise UsageError(what=what, where=path, do="write one object per line") from error
        if not isinstance(row, dict):
            what = f"line {number} is not an object"
            raise UsageError(what=what, where=path, do="write one object per line")
        yield number, row
