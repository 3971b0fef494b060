"""What the layouts of classification return: images, their classes, and how they are scored."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.errors import UsageError, first_line
from dinoforge.evaluation.layouts.named_images import images_in, open_named
from dinoforge.evaluation.layouts.stored import first_missing, read_lines
from dinoforge.files import path_of_text
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import ImageSet

__all__ = [
    "Classified",
    "Grading",
    "Metric",
    "Tested",
    "folders_in",
    "images_of_folders",
    "read_matlab",
    "read_multi_label",
]

Metric = Literal["accuracy", "mean_per_class", "mce", "map_11", "map"]


@dataclass(frozen=True)
class Classified:
    """Images of a data set by position, and their classes 0 .. K - 1."""

    images: ImageSet
    labels: NDArray[np.int64]  # [n]; -1: several classes, see `truths` and `targets`
    classes: tuple[str, ...]  # K names (ImageNet: WordNet ids)
    # sets of classes of which any is right (ReaL, ObjectNet); an empty one drops the image
    truths: tuple[tuple[int, ...], ...] | None = None
    # multi-label: [n, K] of 1 present, 0 absent, -1 difficult (does not count)
    targets: NDArray[np.int8] | None = None
    # classes whose scores compete (ImageNet-A and -R: 200 of 1,000); None: all
    kept: tuple[int, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> images


@dataclass(frozen=True)
class Tested:
    """Test images, and the name and metric of what they are tested for."""

    images: Classified
    name: str = ""  # see `Grading`
    metric: Metric = "accuracy"
    variants: NDArray[np.int64] | None = None
    border: int = 0  # pixels at each side that are cut off

    def grading(self, first: int) -> "Grading":
        """Return how answers are graded if the images are rows ``first`` and on of a data set."""
        images = self.images
        if images.targets is not None:
            truths = images.targets.astype(np.int64)
        elif images.truths is None:
            truths = images.labels[:, None]
        else:
            truths = np.full((len(images.truths), max(map(len, images.truths))), -1)
            for row, classes in zip(truths, images.truths, strict=True):
                row[: len(classes)] = classes
        # An image without a class that is right does not count.
        counts = np.any(truths >= 0, axis=1)
        rows = first + np.flatnonzero(counts)
        variants = None if self.variants is None else self.variants[counts]
        facts: dict[str, Any] = {"border": self.border} if self.border else {}
        if any(images.left_out.values()):
            facts["left_out"] = dict(images.left_out)
        return Grading(
            rows,
            truths[counts],
            name=self.name,
            metric=self.metric,
            kept=images.kept,
            variants=variants,
            facts=facts,
        )

    def boxes(self) -> list[list[float] | None]:
        """Return left, top, right and bottom of what is shown of each image; None: all."""
        if not self.border:
            return [None] * len(self.images.labels)
        boxes: list[list[float] | None] = []
        for path in self.images.images.table.column("shard").to_pylist():
            with Image.open(path_of_text(path)) as image:  # its header
                width, height = image.size
            inside = [self.border, self.border, width - self.border, height - self.border]
            boxes.append([float(side) for side in inside])
        return boxes


@dataclass(frozen=True)
class Grading:
    """Some test images of a data set, and which answers for them are right."""

    rows: NDArray[np.int64]  # [n], of the images of the data set
    # [n, m] classes of which any is right, filled up with -1; multi-label: [n, K], as `targets`
    truths: NDArray[np.int64]
    name: str = ""  # part of the name of the benchmark; "": that of the data set alone
    metric: Metric = "accuracy"
    kept: tuple[int, ...] | None = None  # classes whose scores compete, None: all
    # mCE: [n, 2] number of the undistorted image, and of the corruption in `ALEXNET_ERRORS`
    variants: NDArray[np.int64] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # settings of records

    def units(self, num_images: int) -> NDArray[np.int64]:
        """Return the unit of every image of the data set, -1: of none; of mCE the undistorted."""
        units = np.full(num_images, -1)
        if self.variants is None:
            units[self.rows] = np.arange(len(self.rows))
        else:
            units[self.rows] = self.variants[:, 0]
        return units


def folders_in(folder: Path, *, layout: str) -> list[str]:
    """Name the folders in a folder, sorted; hidden ones are left out.

    Raises
    ------
    UsageError
        If there is no such folder, or none in it.
    """
    first_missing([folder], layout=layout)
    if folder.is_dir():
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        if names := sorted(name for name in names if not name.startswith(".")):
            return names
    what, do = f"no class folders of {layout}", "give the root of the unpacked data set, complete"
    raise UsageError(what=what, where=str(folder), do=do)


def images_of_folders(
    folder: Path, names: Sequence[str], *, layout: str
) -> tuple[list[str], list[int]]:
    """Name the images of some folders, ``FOLDER/IMAGE``, and the position of the folder of each."""
    images: list[str] = []
    positions: list[int] = []
    for position, name in enumerate(names):
        inside = images_in(folder / name, layout=layout)
        images += [f"{name}/{image}" for image in inside]
        positions += [position] * len(inside)
    return images, positions


def read_multi_label(
    root: Path, split: str, classes: Sequence[str] = (), *, policy: DecodePolicy | None = None
) -> Classified:
    """Read ``SPLIT.csv``, whose lines are a file below ``root`` and its labels: ``a.jpg,cat,dog``.

    ``classes`` are the labels that there are; without, those of the file, sorted.

    Raises
    ------
    UsageError
        That names the first missing file, or a label that is none of the classes.
    """
    file = root / f"{split}.csv"
    lines = [line.split(",") for line in read_lines(file, layout="multi_label")]
    names = classes or sorted({label for line in lines for label in line[1:]})
    at = {name: number for number, name in enumerate(names)}
    targets = np.zeros((len(lines), len(names)), np.int8)
    for row, (image, *labels) in zip(targets, lines, strict=True):
        if unknown := [label for label in labels if label not in at]:
            what = f"`{unknown[0]}`, a label of {image}, is none of the {len(names)} of train"
            raise UsageError(what=what, where=str(file), do="correct the list")
        row[[at[label] for label in labels]] = 1
    images = open_named(root, [line[0] for line in lines], layout="multi_label", policy=policy)
    return Classified(images, np.full(len(lines), -1), tuple(names), targets=targets)


def read_matlab(file: Path, *, layout: str) -> dict[str, Any]:
    """Read the variables of a ``.mat`` file of version 5.

    Raises
    ------
    UsageError
        If it is missing or unreadable.
    """
    from scipy.io import loadmat

    first_missing([file], layout=layout)
    try:
        variables: dict[str, Any] = loadmat(file, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        what = f"unreadable list of {layout}: {first_line(error)}"
        raise UsageError(what=what, where=str(file), do="restore the file") from error
    return variables
