"""A user's scorer: any function from images to numbers, by its dotted name."""

from collections.abc import Sequence

import numpy as np

from dinoforge.encoders.encoder import fingerprint_of
from dinoforge.encoders.from_callable import code_hash, find_function
from dinoforge.errors import UsageError, first_line
from dinoforge.scorers.scorer import Images, Scores

__all__ = ["CallableScorer", "numbered"]


def numbered(columns: int) -> Sequence[str]:
    """Return the names of columns that have none: 0, 1, ...; none if it is a single one."""
    return [""] if columns == 1 else [str(number) for number in range(columns)]


class CallableScorer:
    """Calls ``function(images)`` with a list of RGB uint8 arrays ``[H, W, 3]``.

    It returns one number per image, ``[B]``, or several, ``[B, C]``, whose names may be given by
    its attribute ``columns``; NaN where an image has no score. The fingerprint covers the source
    file of the function. If it depends on more (weights, settings), its attribute ``fingerprint``
    (a string) should describe them.

    Raises
    ------
    UsageError
        If the function cannot be imported, or does not return this.
    """

    def __init__(self, dotted: str) -> None:
        self._name = f"python:{dotted}"
        self._function = find_function(dotted)
        # Score a gray image to check the function and its columns before a long run.
        width = self._call([np.full((32, 32, 3), 127, np.uint8)]).shape[1]
        names = getattr(self._function, "columns", None)
        self.columns = numbered(width) if names is None else [str(name) for name in names]
        if len(self.columns) != width:
            raise self._refused(f"the function has {len(self.columns)} columns and returns {width}")
        self.fingerprint = fingerprint_of(
            scorer=self._name,
            code=code_hash(self._function),
            own=str(getattr(self._function, "fingerprint", "")),
        )

    def score(self, images: Images) -> Scores:
        """Score images; see `Scorer.score`."""
        if not len(images):
            return np.zeros((0, len(self.columns)), np.float32)
        rows = self._call(images)
        if rows.shape[1] != len(self.columns):
            widths = f"{len(self.columns)} and {rows.shape[1]}"
            raise self._refused(f"the function returned rows of {widths} numbers")
        return rows

    def _call(self, images: Images) -> Scores:
        result = self._function(list(images))
        try:
            rows = np.asarray(result, np.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"the function did not return numbers: {first_line(error)}"
            raise self._refused(what) from error
        if rows.ndim not in (1, 2) or len(rows) != len(images) or not rows.size:
            what = f"the function returned {list(rows.shape)} for {len(images)} images"
            raise self._refused(what)
        return rows.reshape(len(rows), -1)

    def _refused(self, what: str) -> UsageError:
        do = "return one number per image, [B], or several, [B, C]"
        return UsageError(what=what, where=self._name, do=do)
