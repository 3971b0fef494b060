"""What protocols on masks and depth maps share: blocks, units of intervals, areas, records."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.metrics.segmentation import areas_of, class_scores, confusion_matrix, pool
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.stages.protocol import Task, Units

__all__ = ["areas_per_unit", "last_blocks", "name_blocks", "segmentation_outcome", "units_of"]


def last_blocks(model: Model, count: int) -> list[int]:
    """Return the indices of the last blocks of a model, oldest first."""
    return list(range(model.depth - min(count, model.depth), model.depth))


def name_blocks(count: int) -> str:
    """Name the features that are the tokens of some last blocks."""
    return "last block" if count == 1 else f"last {count} blocks"


def units_of(task: Task) -> Units:
    """Return the unit (an image, a block of frames) of each test image, as they first occur."""
    items = task.truth[1].items
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(i.unit for i in items))}
    units = np.full(len(task.items), -1)
    units[task.items.test] = [numbers[item.unit] for item in items]
    return units


def areas_per_unit(
    predict: Callable[[int, tuple[int, int]], NDArray[np.int64]], test: DenseSet
) -> NDArray[Any]:
    """Compare predictions with every mask of a set: areas of each unit, ``[U, 3, K]``.

    ``predict(image, size)`` gives the labels of a test image at the size of its mask.

    Raises
    ------
    UsageError
        If a mask does not decode, or is of another size than its image.
    """
    matrices = []
    for number, item in enumerate(test.items):
        labels = test.read_labels(item)
        predicted = predict(number, labels.shape)
        where = str(item.labels)
        matrices.append(
            confusion_matrix(predicted, labels, num_classes=len(test.classes), where=where)
        )
    return areas_of(np.stack([*pool(matrices, [item.unit for item in test.items]).values()]))


def segmentation_outcome(
    subject: Subject, protocol: str, runs: Sequence[NDArray[Any]], test: DenseSet, **settings: Any
) -> Outcome:
    """Return mIoU, the mean over runs (a seed each) of areas per unit, ``[U, 3, K]``."""
    values = np.stack(runs, axis=1)
    iou = class_scores(values.sum(axis=(0, 1)))[0]
    settings |= {"classes": int(np.isfinite(iou).sum()), "units": len(values)}
    if len(runs) > 1:
        by_run = [combine("mean_iou", values[:, [run]]) for run in range(len(runs))]
        settings |= {"seeds": len(runs), "deviation": float(np.std(by_run, ddof=1))}
    value = combine("mean_iou", values)
    record = subject.record(protocol, "mean_iou", value, len(test.items), **settings)
    return Outcome(record, values, "mean_iou")
