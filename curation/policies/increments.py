"""New images that join groups of duplicates of a finished run: what the base has decided stays.

The pairs are those of all images, as if they came at once; but images of the base come before new
ones whatever their rank, and those that it keeps are kept. So a new image is dropped if a chain of
pairs leads to any image of the base, and several images that the base keeps may turn out to be
linked by new ones.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.duplicates import Candidates, Groups

__all__ = ["Decided", "add_base", "take_new"]


@dataclass(frozen=True)
class Decided:
    """Images of the base that took part, as columns sorted by ``image_id``."""

    image_id: NDArray[np.int64]
    content: NDArray[np.int64]
    keeper: NDArray[np.int64]  # the image that is kept in its place; itself if it is kept
    source: NDArray[np.int64] | None = None  # as in `Candidates`

    def take(self, rows: NDArray[np.int64]) -> "Decided":
        """Select images by row, ascending."""
        source = None if self.source is None else self.source[rows]
        return Decided(self.image_id[rows], self.content[rows], self.keeper[rows], source)


def add_base(
    base: Decided, new: Candidates, rule: Literal["component", "direct"] = "component"
) -> tuple[Decided, Candidates]:
    """Return who takes part, images of the base first.

    Under the rule ``direct`` only images that are kept drop others, so only those of the base that
    are kept take part.
    """
    is_kept = base.keeper == base.image_id
    rows = np.flatnonzero(is_kept) if rule == "direct" else np.arange(len(is_kept))
    is_kept = is_kept[rows]
    base = base.take(rows)
    rank = np.empty(len(rows), np.int64)
    rank[np.argsort(~is_kept, kind="stable")] = np.arange(len(rows))
    every = Candidates(
        image_id=np.concatenate([base.image_id, new.image_id]),
        content=np.concatenate([base.content, new.content]),
        rank=np.concatenate([rank, len(rows) + new.rank]),
        protected=np.concatenate([is_kept, new.protected]),
        source=None
        if base.source is None or new.source is None
        else np.concatenate([base.source, new.source]),
    )
    return base, every


def take_new(base: Decided, every: Candidates, groups: Groups) -> Groups:
    """Return the rows of the new images, of the groups of what `add_base` returned.

    A new image that a chain of pairs links to the base is represented by the image that the base
    keeps in place of the first of its images in the chain.
    """
    num, rows = len(base.image_id), np.arange(len(every.image_id))
    end = np.where(groups.link < 0, rows, np.searchsorted(every.image_id, groups.link))
    end[:num] = rows[:num]
    while (end[end] != end).any():
        end = end[end]
    new = slice(num, None)
    is_linked = ~groups.kept[new] & (end[new] < num)
    duplicate_of = groups.duplicate_of[new].copy()
    duplicate_of[is_linked] = base.keeper[end[new][is_linked]]
    columns = {
        name: getattr(groups, name)[new]
        for name in ("kept", "reason", "component", "link", "similarity")
    }
    return Groups(**columns, duplicate_of=duplicate_of, num_split=groups.num_split)
