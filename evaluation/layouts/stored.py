"""Files of a data set where they lie: on disk or inside a tar; read only when asked.

Annotations are PNGs whose pixels are numbers: indices of a palette, or gray values.
"""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.errors import UsageError, first_line
from dinoforge.files import read_regular
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.shards.reading import RangeReader

__all__ = [
    "StoredFile",
    "first_missing",
    "image_size",
    "in_numeric_order",
    "missing_file",
    "read_json",
    "read_labels",
    "read_lines",
    "read_pixels",
]

_reader = RangeReader()
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class StoredFile:
    """A file, or the member of a tar at ``offset``, ``size`` bytes long."""

    path: str
    member: str = ""  # "": the file itself
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Return its bytes.

        Raises
        ------
        UsageError
            If it is gone or unreadable.
        """
        try:
            if self.member:
                return _reader.read(self.path, self.offset, self.size)
            return read_regular(self.path)
        except OSError as error:
            do = "complete the data set"
            raise UsageError(what=first_line(error), where=str(self), do=do) from error

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path


def missing_file(file: Path | str, *, layout: str) -> UsageError:
    """Return the error that names a missing file; ``layout`` names what it is part of."""
    do = "give the root of the unpacked data set, complete"
    return UsageError(what=f"missing file of {layout}", where=str(file), do=do)


def first_missing(files: Iterable[Path], *, layout: str) -> None:
    """Check that files exist.

    Raises
    ------
    UsageError
        That names the first missing one.
    """
    for file in files:
        if not file.exists():
            raise missing_file(file, layout=layout)


def in_numeric_order(name: str) -> list[str | int]:
    """Return the key that sorts names by the numbers in them: frame 2 before frame 10."""
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(name)]


def read_lines(file: Path, *, layout: str) -> list[str]:
    """Read the lines of a list that are not empty.

    Raises
    ------
    UsageError
        If it is missing, not text, or empty.
    """
    first_missing([file], layout=layout)
    try:
        lines = StoredFile(str(file)).read().decode().split("\n")
    except UnicodeDecodeError as error:
        what = f"not a list of {layout}: no text"
        raise UsageError(what=what, where=str(file), do="restore the file") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        what = f"empty list of {layout}"
        raise UsageError(what=what, where=str(file), do="restore the file")
    return lines


def read_json(file: Path, *, layout: str) -> Any:
    """Read a JSON file that is part of a data set.

    Raises
    ------
    UsageError
        If it is missing or not JSON.
    """
    first_missing([file], layout=layout)
    try:
        return json.loads(StoredFile(str(file)).read())
    except ValueError as error:
        what, do = f"not JSON: {first_line(error)}", "restore the file"
        raise UsageError(what=what, where=str(file), do=do) from error


def read_pixels(file: StoredFile, policy: DecodePolicy | None = None) -> NDArray[np.uint8]:
    """Decode an image of a data set to RGB ``[X, Y, 3]``.

    Raises
    ------
    UsageError
        If it does not decode: a benchmark has no images to skip.
    """
    try:
        return decode(file.read(), policy or DecodePolicy())
    except Undecodable as error:
        do = "restore the file from the data set"
        raise UsageError(what=f"undecodable image: {error}", where=str(file), do=do) from error


def image_size(file: StoredFile) -> tuple[int, int]:
    """Return height and width from the header of an image.

    Raises
    ------
    UsageError
        If it is no image.
    """
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError) as error:
        do = "restore the file from the data set"
        raise UsageError(what="undecodable image", where=str(file), do=do) from error
    return height, width


def read_labels(file: StoredFile) -> NDArray[np.uint8]:
    """Read an annotation of numbers below 256, ``[X, Y]``: palette indices or gray values.

    Raises
    ------
    UsageError
        If it does not decode, or its pixels are colors.
    """
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            image.load()
            mode, labels = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        what = f"undecodable annotation: {first_line(error)}"
        do = "restore the file from the data set"
        raise UsageError(what=what, where=str(file), do=do) from error
    if mode not in {"P", "L", "1"}:
        raise UsageError(
            what=f"annotation of colors (mode {mode}), not of numbers",
            where=str(file),
            do="give a PNG with a palette, or gray with 8 bits",
        )
    return labels.astype(np.uint8)
