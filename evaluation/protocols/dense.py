"""What protocols on masks and depth maps share: sizes, truths, heads, units, records."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.layouts.dense import DenseItem, DenseSet
from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.segmentation import areas_of, class_scores, confusion_matrix, pool
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.settings import HeadConfig
from dinoforge.evaluation.stages.protocol import Task, Units
from dinoforge.stages import part_name

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes
    from dinoforge.evaluation.methods.dense.linear_head import HeadTraining, LinearHead

__all__ = [
    "Predict",
    "areas_per_unit",
    "head_notes",
    "head_training",
    "keep_head",
    "last_blocks",
    "name_blocks",
    "read_truths",
    "segmentation_outcome",
    "units_of",
    "whole_patches",
]

Predict = Callable[[int, tuple[int, int]], NDArray[np.int64]]  # test image, size -> labels


def whole_patches(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Round height and width down to whole patches, at least one."""
    height, width = (max(side // patch_size, 1) * patch_size for side in size)
    return height, width


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


def read_truths(
    read: Callable[[DenseItem], NDArray[Any]],
    items: Sequence[DenseItem],
    grid: tuple[int, int],
    scale: int,
) -> NDArray[Any]:
    """Read masks or depth maps with ``scale`` values per side of a patch, ``[n, H, W]``."""
    size = (grid[0] * scale, grid[1] * scale)
    truths: NDArray[Any] | None = None
    for number, item in enumerate(items):
        truth = resize_nearest(read(item), *size)
        if truths is None:
            truths = np.empty((len(items), *size), truth.dtype)
        truths[number] = truth
    assert truths is not None, "layouts refuse splits without images"
    return truths


def head_training(settings: HeadConfig, seed: int, **changes: Any) -> "HeadTraining":
    """Return how a head is trained with one of the seeds."""
    from dinoforge.evaluation.methods.dense.linear_head import HeadTraining

    training = {**asdict(settings), "seed": seed, **changes}
    del training["seeds"]
    return HeadTraining(**training)


def head_notes(task: Task, **notes: Any) -> "HeadNotes":
    """Return what is written beside a head: the backbone, and ``notes`` of `HeadNotes`."""
    from dinoforge.encoders.backbone import weights_hash
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes

    vit = open_extractor(task.model, device=task.device).vit
    assert task.model.file is not None, "a ViT is a file"
    assert vit is not None, "a network gives tokens"
    return HeadNotes(
        backbone=weights_hash(task.model.file),
        architecture=vit.model.config.name,
        positions=vit.model.config.positions,
        **notes,
    )


def keep_head(task: Task, name: str, head: "LinearHead", notes: "HeadNotes") -> None:
    """Write a head among the files of the partition, as ``part-00000.head-NAME.safetensors``."""
    from dinoforge.evaluation.methods.dense.head_files import save_head

    path = task.output.folder / f"{part_name(task.output.index)}.head-{name}.safetensors"
    save_head(path, head, notes)
    task.output.add(path)


def areas_per_unit(predict: Predict, test: DenseSet) -> NDArray[Any]:
    """Compare predictions with every mask of a set: areas of each unit, ``[U, 3, K]``.

    ``predict(image, size)`` gives the labels of a test image at the size of its mask.

    Raises
    ------
    UsageError
        If a mask does not decode, or is of another size than its image.
    """
    areas = []
    for number, item in enumerate(test.items):
        labels = test.read_labels(item)
        predicted = predict(number, labels.shape)
        matrix = confusion_matrix(
            predicted, labels, num_classes=len(test.classes), where=str(item.labels)
        )
        areas.append(areas_of(matrix))  # of 150 classes 50 times smaller
    return np.stack([*pool(areas, [item.unit for item in test.items]).values()])


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
