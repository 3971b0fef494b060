"""Scores of images from a CSV file: which of several duplicates its owner prefers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from dinoforge.curation.config import CurationConfig
from dinoforge.errors import UsageError

__all__ = ["Scores", "check_scores", "read_scores"]

_COLUMNS = {"key": pa.string(), "score": pa.float64()}


@dataclass(frozen=True)
class Scores:
    """The scores of a file: one per key."""

    path: str
    keys: pa.Array
    values: NDArray[np.float64]

    def of(self, blocks: Iterable[pa.ChunkedArray]) -> NDArray[np.float64]:
        """Return the score of each key, given in blocks; NaN where the file has none.

        Raises
        ------
        UsageError
            If it has none at all: other names, most likely.
        """
        scores, example = [np.empty(0)], ""
        for keys in blocks:
            row = pc.fill_null(pc.index_in(keys, self.keys), -1).to_numpy()
            scores.append(np.where(row < 0, math.nan, self.values[row]))
            example = example or keys[0].as_py()
        every = np.concatenate(scores)
        if len(every) and np.isnan(every).all():
            raise UsageError(
                what="no image has a score",
                where=self.path,
                do=f"give the keys of the images, such as `{example}`",
            )
        return every


def read_scores(path: str) -> Scores:
    """Read a CSV file with the columns ``key`` and ``score``; others are ignored.

    Raises
    ------
    UsageError
        If the file is missing, lacks a column, repeats a key, or a score is no finite number.
    """
    options = pa.csv.ConvertOptions(
        column_types=_COLUMNS, include_columns=list(_COLUMNS), strings_can_be_null=False
    )
    try:
        with Path(path).open("rb") as file:
            table = pa.csv.read_csv(file, convert_options=options)
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        text = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        do = "give a CSV file with a header and the columns key and score"
        raise UsageError(what=f"scores unreadable: {text}", where=path, do=do) from error
    values = table.column("score").to_numpy()
    keys = table.column("key").combine_chunks()
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        what = f"the score of `{keys[bad[0]].as_py()}` is not a finite number"
        raise UsageError(what=what, where=path, do="give a number, or leave the row out")
    if len(pc.unique(keys)) < len(keys):
        (key,) = (
            pc.value_counts(keys)
            .filter(pc.greater(pc.value_counts(keys).field("counts"), 1))
            .field("values")[:1]
            .to_pylist()
        )
        raise UsageError(what=f"`{key}` has several scores", where=path, do="give each key once")
    return Scores(path, keys, values)


def check_scores(config: CurationConfig) -> None:
    """Refuse unreadable scores before anything else is read."""
    if config.duplicates.scores:
        read_scores(config.duplicates.scores)
