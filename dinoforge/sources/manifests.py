"""Lists of files: CSV or JSON lines with a path per row, and perhaps a label; lists of images."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinoforge.errors import UsageError, first_line, some_of
from dinoforge.files import decode_text, read_regular
from dinoforge.remote import is_url
from dinoforge.remote.store import read_object
from dinoforge.remote.urls import join_url, local_path, parent_url, url_fault

__all__ = ["is_manifest", "read_manifest", "read_subset"]

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
        If it cannot be read, a row is damaged or names a URL that cannot be read, or no column is
        named like one of paths.
    """
    try:
        text = decode_text(read_object(path) if is_url(path) else read_regular(path))
    except (OSError, UnicodeDecodeError) as error:
        do = "make it readable: UTF-8 text"
        raise UsageError(what=first_line(error), where=path, do=do) from error
    rows = _read_csv(path, text) if path.lower().endswith(".csv") else _read_lines(path, text)
    for line, row in rows:
        name = next((name for name in _PATHS if name in row), None)
        if name is None or not isinstance(row[name], str) or not row[name]:
            raise UsageError(
                what=f"no path in line {line}, which has {some_of(row) or 'nothing'}",
                where=path,
                do=f"name the column of paths {', '.join(_PATHS[:-1])} or {_PATHS[-1]}",
            )
        label = next((_text(row[label]) for label in _LABELS if label in row), None)
        yield _place(path, line, row[name]), label


def _place(manifest: str, line: int, name: str) -> str:
    """Return the path or URL that a row names."""
    name = local_path(name)
    if is_url(name):
        if fault := url_fault(f"line {line}", name):
            raise UsageError(what=fault.what, where=manifest, do=fault.do)
        return name
    if is_url(manifest) and not name.startswith("/"):
        return join_url(parent_url(manifest), name.removeprefix("./"))
    return str(Path(manifest).parent / name)


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


def read_subset(path: Path, keys: Sequence[str]) -> list[int]:
    """Return the positions of the images that a file lists, such as those with a label.

    ``keys`` are those of the images. A line is a key, or a file name that only one of them has,
    with or without extension; or, if no line names an image, a position from 0.

    Raises
    ------
    UsageError
        If the file is unreadable or empty, or a line names no image.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            what=f"unreadable: {first_line(error)}", where=str(path), do="check the path"
        ) from error
    lines = [line for line in lines if line]
    files = Counter(key.rsplit("/", 1)[-1] for key in keys)
    names = {key: at for at, key in enumerate(keys)}
    for at, key in enumerate(keys):
        if files[key.rsplit("/", 1)[-1]] == 1:  # else it could be any of several
            names.setdefault(key.rsplit("/", 1)[-1], at)

    def position(line: str) -> int:
        stem = line.rsplit(".", 1)[0]
        return next((names[n] for n in (line, stem, stem.rsplit("/", 1)[-1]) if n in names), -1)

    positions = [position(line) for line in lines]
    if all(line.isdecimal() for line in lines) and set(positions) == {-1}:
        positions = [int(line) for line in lines]
    wrong = [line for line, at in zip(lines, positions, strict=True) if not 0 <= at < len(keys)]
    if wrong or not lines:
        raise UsageError(
            what=f"{len(wrong):,} of {len(lines):,} lines name no image, or several"
            + (f", the first: {wrong[0]}" if wrong else ""),
            where=str(path),
            do="list keys, file names, or numbers from 0 in the order of the images",
        )
    return positions
