"""The scorer interface: images in, one number per image and column, and a fingerprint."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images", "Scorer", "Scores"]

Images = Sequence[NDArray[np.uint8]]
Scores = NDArray[np.float32]


@runtime_checkable
class Scorer(Protocol):
    """Measures decoded images."""

    fingerprint: str  # of all that determines the scores: comparable only if equal

    @property
    def columns(self) -> Sequence[str]:
        """Name the numbers; [""] if there is one only, which needs no name of its own."""
        ...

    def score(self, images: Images) -> Scores:
        """Score upright RGB images, uint8 ``[H, W, 3]`` of any sizes.

        Returns float32 ``[B, len(columns)]``; NaN where an image has no score. The scores of an
        image do not depend on the others.
        """
        ...
