"""Images in which an object is to be found: frames of videos, images with masks or with boxes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.config import LAYOUTS
from dinoforge.evaluation.layouts.dense import IGNORED
from dinoforge.evaluation.layouts.stored import StoredFile, image_size
from dinoforge.evaluation.metrics.boxes import mask_box
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.stages.protocol import Task, Units

__all__ = [
    "Picture",
    "pictures_of",
    "pictures_outcome",
    "stop_without_objects",
    "trivial_boxes",
    "units_of",
]


@dataclass(frozen=True)
class Picture:
    """One image, and what is known of its objects: labels of its pixels, or boxes."""

    row: int  # of `Items`
    unit: int  # what intervals resample: the video, the image, or a block of neighboring frames
    image: StoredFile
    # labels [H, W]: 0 background, 255 what does not count, the rest are objects
    read_labels: Callable[[], NDArray[np.uint8]] | None = None
    boxes: NDArray[np.float64] | None = None

    def read_mask(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Read which pixels are objects, and which do not count."""
        assert self.read_labels is not None, "an image with boxes has no mask"
        labels = self.read_labels()
        void = labels == IGNORED
        return (labels > 0) & ~void, void

    def read_boxes(self) -> tuple[NDArray[np.float64], tuple[int, int]]:
        """Return the boxes ``[n, 4]``, or that of the mask, none of an empty one; height, width."""
        if self.boxes is not None:
            return self.boxes, image_size(self.image)
        mask, _ = self.read_mask()
        boxes = [mask_box(mask)] if mask.any() else []
        return np.array(boxes, np.float64).reshape(-1, 4), (mask.shape[0], mask.shape[1])


def pictures_of(task: Task, every: int) -> list[Picture]:
    """List the test images of a data set; of videos one of ``every`` frames."""
    gives, rows = LAYOUTS[task.items.layout].gives, task.items.test.tolist()
    if "videos" in gives:
        pictures, start = [], 0
        for unit, video in enumerate(task.truth):
            for at in range(0, len(video.frames), every):
                read = partial(video.read_annotation, at)
                pictures.append(Picture(rows[start + at], unit, video.frames[at], read))
            start += len(video.frames)
        return pictures
    if "boxes" in gives:
        return [
            Picture(row, unit, one.image, boxes=one.boxes)
            for unit, (row, one) in enumerate(zip(rows, task.truth, strict=True))
        ]
    _, test = task.truth
    units = {item.unit: None for item in test.items}  # images, or blocks of neighboring frames
    numbers = {unit: number for number, unit in enumerate(units)}
    return [
        Picture(row, numbers[item.unit], item.image, partial(test.read_objects, item))
        for row, item in zip(rows, test.items, strict=True)
    ]


def units_of(task: Task) -> Units:
    """Return the unit of every image, -1 of those of a bank; all frames of a video have one."""
    units = np.full(len(task.items), -1)
    for picture in pictures_of(task, every=1):
        units[picture.row] = picture.unit
    return units


def pictures_outcome(
    subject: Subject,
    protocol: str,
    metric: str,
    pictures: Sequence[Picture],
    scores: Sequence[float] | NDArray[np.float64],
    **settings: Any,
) -> Outcome:
    """Return the mean over pictures; a score of NaN is that of a picture without an object."""
    values = np.zeros((pictures[-1].unit + 1, 2))
    for picture, score in zip(pictures, scores, strict=True):
        if not np.isnan(score):
            values[picture.unit] += [score, 1]
    count = int(values[:, 1].sum())
    settings |= {"units": len(values), "without_object": len(pictures) - count}
    record = subject.record(protocol, metric, combine("ratio", values), count, **settings)
    return Outcome(record, values, "ratio")


def stop_without_objects(task: Task, has_object: Sequence[bool]) -> None:
    """Refuse a data set in which nothing can be found.

    Raises
    ------
    UsageError
        If no picture has an object.
    """
    if not any(has_object):
        raise UsageError(
            what=f"none of {len(has_object)} images has an object",
            where=task.data,
            do="give masks in which 0 is the background and 255 does not count",
        )


def trivial_boxes(height: int, width: int) -> dict[str, tuple[int, int, int, int]]:
    """Return the box of the whole image, and the centered one with half of its sides."""
    sides = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    left, top, right, bottom = map(round, sides)
    return {"whole image": (0, 0, width, height), "center box": (left, top, right, bottom)}
