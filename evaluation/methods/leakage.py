"""The leakage gate: test images that a model was trained on, and the units without them.

Every test image is compared with every training image by a copy descriptor; exact, with memory for
the test images and one block. The search finds copies, not other photographs of the same thing.

Shapes: n test images, m training images per block, D dimensions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.neighbors.products import backend_for, usable_rows
from dinoforge.neighbors.search import Neighbors, merge_top_k, top_k

__all__ = ["Hits", "find_hits", "search_views", "units_without_hits"]

Rows = NDArray[np.float32]
Counts = NDArray[np.int64]

# Sides of the parts of a test image that are searched as well. A copy that was cropped to 90 to
# 97 % of each side is near one of them: with the pixel descriptor, 100 % of such copies are above
# 0.925, without these views 64 % (benchmarks/leakage.py).
_SHARES = (0.94, 0.85)
_CORNERS_AND_CENTER = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Hits:
    """The most similar training image of every test image, and which ones count as leaked."""

    best: NDArray[np.int64]  # [n]: place in the stream of training images; -1: none comparable
    similarity: NDArray[np.float32]  # [n]; -inf: none comparable
    view: NDArray[np.int64]  # [n]: which view of the test image was most similar
    threshold: float
    num_searched: int  # training images
    num_blank: int  # training images without a descriptor (of one color): never a match
    num_blank_test: int  # test images without a descriptor: never a hit

    @property
    def is_hit(self) -> NDArray[np.bool_]:
        """Whether the similarity is at least the threshold, ``[n]``."""
        return self.similarity >= np.float32(self.threshold)


def search_views(
    image: NDArray[np.uint8], *, parts: bool, mirrored: bool
) -> list[NDArray[np.uint8]]:
    """Return what of a test image ``[H, W, 3]`` is searched for: itself first, then other views.

    ``parts``: its corners and center at two sizes, for descriptors that a crop changes (``pixels``;
    ``sscd`` tolerates crops). ``mirrored``: the mirror image, for descriptors that mirroring
    changes (``sscd``, not ``pixels``).
    """
    views = [image, image[:, ::-1]] if mirrored else [image]
    for share in _SHARES if parts else ():
        height, width = (max(1, round(share * side)) for side in image.shape[:2])
        for down, right in _CORNERS_AND_CENTER:
            top, left = (
                round(at * rest)
                for at, rest in ((down, image.shape[0] - height), (right, image.shape[1] - width))
            )
            views.append(image[top : top + height, left : left + width])
    return [np.ascontiguousarray(view) for view in views]


def find_hits(
    views: Sequence[Rows], blocks: Iterable[Rows], *, threshold: float, device: str = "cpu"
) -> Hits:
    """Find the most similar training image of every test image.

    Parameters
    ----------
    views : sequence of ndarray
        Unit descriptors of the test images, float32 ``[n, D]`` per view (`search_views`); the best
        view counts.
    blocks : iterable of ndarray
        Unit descriptors of the training images, ``[m, D]`` each, in one order; read once.
    threshold : float
        A test image is a hit if its best similarity is at least this.
    device : str
        Where products are computed.

    Returns
    -------
    Hits
        Equal for any division into blocks and any device; equal similarities take the first view,
        then the first training image.
    """
    asked = np.concatenate(views)
    best = Neighbors(
        np.full((len(asked), 1), -1, np.int64), np.full((len(asked), 1), -np.inf, np.float32)
    )
    searched = blank = 0
    for block in blocks:
        part = top_k(asked, block, k=1, backend=backend_for(device), device=device)
        ids = np.where(part.ids >= 0, part.ids + searched, -1)
        best = merge_top_k([best, Neighbors(ids, part.scores)])
        searched += len(block)
        blank += int((~usable_rows(np.ascontiguousarray(block, np.float32))).sum())
    shape = (len(views), len(views[0]))
    scores = best.scores.reshape(shape)
    view, image = scores.argmax(axis=0), np.arange(shape[1])
    usable = np.stack([usable_rows(np.ascontiguousarray(rows, np.float32)) for rows in views])
    return Hits(
        best.ids.reshape(shape)[view, image],
        scores[view, image],
        view,
        threshold,
        searched,
        blank,
        int((~usable.any(axis=0)).sum()),
    )


def units_without_hits(
    is_hit: NDArray[np.bool_], unit_of: NDArray[np.int64] | None = None, num_units: int = 0
) -> Counts:
    """Return 1 for every unit without a hit, else 0: ``counts`` of metrics that resample units.

    ``unit_of`` is the unit of every test image (its video, its block of frames), of ``num_units``;
    a unit with one hit is left out. Default: every image is a unit.
    """
    if unit_of is None:
        return (~is_hit).astype(np.int64)
    hits = np.bincount(unit_of, weights=is_hit, minlength=num_units)
    return (hits == 0).astype(np.int64)
