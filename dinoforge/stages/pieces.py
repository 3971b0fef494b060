"""Finished pieces of a partition: after a kill it goes on behind the last of them.

They lie beside its outputs until its marker is written, named by its fingerprint: those of another
recipe are never read. A stage of which a partition takes long uses them; its bytes are the same.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.files import write_array

if TYPE_CHECKING:
    from dinoforge.stages.stage import Output

__all__ = ["Pieces", "remove_other_pieces", "remove_pieces"]

_DIGITS = 16  # of the fingerprint


class Pieces:
    """Arrays by number, written as a whole."""

    def __init__(self, out: "Output") -> None:
        self._out = out

    def read(self, number: int) -> NDArray[Any] | None:
        """Return a piece; None if it is not finished."""
        try:
            array: NDArray[Any] = np.load(self._path(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array

    def write(self, number: int, array: NDArray[Any]) -> None:
        """Keep a finished piece."""
        write_array(self._path(number), array)

    def _path(self, number: int) -> Path:
        out = self._out
        return out.folder / f"{_stem(out.index, out.fingerprint)}-{number:05d}.npy"


def remove_pieces(out: "Output") -> None:
    """Remove the pieces of a partition, whose marker is written."""
    _remove(out.folder.glob(f"{_stem(out.index, out.fingerprint)}-*.npy"))


def remove_other_pieces(folder: Path, unfinished: Collection[tuple[int, str]]) -> None:
    """Remove the pieces in the folder of a stage that no unfinished partition will read.

    ``unfinished`` are the numbers and fingerprints of these.
    """
    stems = {_stem(index, fingerprint) for index, fingerprint in unfinished}
    _remove(
        path
        for path in folder.glob("part-*.piece-*.npy")
        if path.name.rpartition("-")[0] not in stems
    )


def _stem(index: int, fingerprint: str) -> str:
    return f"part-{index:05d}.piece-{fingerprint[:_DIGITS]}"


def _remove(paths: Any) -> None:
    for path in sorted(paths):
        path.unlink(missing_ok=True)
