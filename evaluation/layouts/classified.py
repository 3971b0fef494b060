"""What the layouts of classification return: images, their classes, and how they are scored."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError, first_line
from dinoforge.evaluation.layouts.named_images import images_in
from dinoforge.evaluation.layouts.stored import first_missing
from dinoforge.sources.image_set import ImageSet

__all__ = ["Classified", "Grading", "Metric", "folders_in", "images_of_folders", "read_matlab"]

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
