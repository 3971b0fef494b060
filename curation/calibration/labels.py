"""Answers, appended to a file at each key: a kill loses none, and the next start continues."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinoforge.errors import UsageError
from dinoforge.files import read_regular, write_text

__all__ = ["ANSWERS", "Labels", "read_csv", "write_csv"]

ANSWERS = ("same", "different")

_COLUMNS = ("i", "j", "similarity", "key_i", "key_j", "label")

PairIds = tuple[int, int]


class Labels:
    """The answer to every pair that has one, in a file of JSON lines; the last line counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.answers: dict[PairIds, str] = {}
        data = path.read_bytes() if path.is_file() else b""
        whole, _, rest = data.rpartition(b"\n")
        if rest:  # half a line, of a kill: the next one must not be appended to it
            os.truncate(path, len(data) - len(rest))
        for line in whole.splitlines():
            entry = json.loads(line)
            self._note((entry["i"], entry["j"]), entry["label"])

    def set(self, pair: PairIds, answer: str | None) -> None:
        """Record an answer, or take it back with None; it is on the disk on return."""
        entry = {"i": pair[0], "j": pair[1], "label": answer}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._note(pair, answer)

    def _note(self, pair: PairIds, answer: str | None) -> None:
        if answer is None:
            self.answers.pop(pair, None)
        else:
            self.answers[pair] = answer


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write pairs with their labels; a pair without one has an empty label."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())


def read_csv(path: Path) -> dict[PairIds, str]:
    """Read the labels of a CSV with the columns i, j and label; empty labels are left out.

    Raises
    ------
    UsageError
        If the file cannot be read, lacks a column, or has a row without a pair and a label.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        do = "give a CSV as `--export` writes it"
        raise UsageError(what=f"labels cannot be read: {error}", where=str(path), do=do) from error
    labels: dict[PairIds, str] = {}
    for number, row in enumerate(rows, start=2):
        try:
            pair = (int(row["i"]), int(row["j"]))
            label = (row["label"] or "").strip()
        except (KeyError, TypeError, ValueError) as error:
            what = "a row without the numbers i, j and a label"
            where = f"{path}:{number}"
            raise UsageError(what=what, where=where, do="use the rows of `--export`") from error
        if label and label not in ANSWERS:
            where = f"{path}:{number}"
            raise UsageError(what=f"label `{label}`", where=where, do="write same or different")
        if label:
            labels[pair] = label
    return labels
