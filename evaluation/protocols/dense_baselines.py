"""What protocols on masks and depth maps print beside networks: constants, colors and position."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.methods.dense.baselines import (
    ClassesByPosition,
    color_features,
    position_features,
)
from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.dense import areas_per_unit, segmentation_outcome
from dinoforge.evaluation.stages.protocol import Task
from dinoforge.images import DecodePolicy
from dinoforge.randomness import KeyedPermutation

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

__all__ = ["ColorRows", "baseline_grid", "class_constants", "color_and_position", "some_of"]

_PATCH = 14  # side in pixels of the cells that baselines see
# Training images that baselines see: 57 numbers per patch are learned from fewer than these.
_MAX_ITEMS = 2048


def baseline_grid(size: Sequence[int]) -> tuple[int, int]:
    """Return the cells of baselines, high and wide, of images of a size in pixels."""
    rows, columns = (max(side // _PATCH, 1) for side in size)
    return rows, columns


def some_of(data: DenseSet) -> DenseSet:
    """Return the set with a keyed choice of at most 2,048 items, in their order."""
    n = len(data.items)
    if n <= _MAX_ITEMS:
        return data
    chosen = KeyedPermutation(n, 0, "evaluation/dense-baselines")[np.arange(_MAX_ITEMS)]
    return replace(data, items=[data.items[at] for at in np.sort(chosen).tolist()])


def class_constants(task: Task, protocol: str, grid: tuple[int, int], scale: int) -> list[Outcome]:
    """Measure the majority class, and that of each position, ``scale`` per side of a cell."""
    train, test = task.truth
    size = (grid[0] * scale, grid[1] * scale)
    counts = ClassesByPosition(size, len(test.classes))
    for item in train.items:
        counts.add(resize_nearest(train.read_labels(item), *size))
    outcomes = []
    for name, labels in (
        ("majority class", np.full(size, counts.majority)),
        ("majority per position", counts.majority_per_position()),
    ):

        def constant(_: int, size: tuple[int, int], labels: Any = labels) -> NDArray[Any]:
            return resize_nearest(labels, *size)

        areas = areas_per_unit(constant, test)
        outcomes.append(segmentation_outcome(task.of(name), protocol, [areas], test, baseline=True))
    return outcomes


class ColorRows:
    """Colors of the patches of images, ``[n, X, Y, 48]``, read from the images when indexed."""

    def __init__(self, data: DenseSet, grid: tuple[int, int], policy: DecodePolicy) -> None:
        self._data, self._grid, self._policy = data, grid, policy
        self.shape = (len(data.items), *grid, 48)

    def __len__(self) -> int:
        """Count the images."""
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the images of some rows."""
        items = (self._data.items[at] for at in rows.tolist())
        images = (self._data.read_image(item, self._policy) for item in items)
        return np.stack([color_features(image, self._grid) for image in images])


def color_and_position(
    train: DenseSet, test: DenseSet, grid: tuple[int, int], policy: DecodePolicy
) -> "tuple[PatchFeatures, PatchFeatures]":
    """Return colors and positions of the training images, in memory, and of the test images."""
    from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

    known, asked = (ColorRows(data, grid, policy) for data in (train, test))
    place = position_features(grid)

    def with_position(colors: Any) -> PatchFeatures:
        return PatchFeatures([colors, np.broadcast_to(place, (len(colors), *place.shape))])

    return with_position(known[np.arange(len(known))]), with_position(asked)
