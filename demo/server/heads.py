"""Heads on the network: what the server shows of them. Whoever serves opens their files."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DenseMap", "Head"]


class DenseMap(NamedTuple):
    """A value per patch ``[X, Y]``: numbers of classes if they have names, else quantities."""

    values: NDArray[np.number]
    classes: tuple[str, ...] = ()
    unit: str = ""


class Head(NamedTuple):
    """A name, and the function from pixels ``[H, W, 3]`` and the size of `patch_grid` to a map."""

    name: str
    see: Callable[[NDArray[np.uint8], int], DenseMap]
