"""The twelve fine-grained sets of SSL-Transfer (Ericsson et al. 2021) and DINOv2, as published.

The regularization of the classifier is chosen on ``val``, then it is fitted to train and val
together and scored on ``test`` by the set's own metric. Where the authors publish no ``val``, a
share of train takes its place. Files are those that the authors' archives unpack to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.classified import (
    Classified,
    Metric,
    Tested,
    folders_in,
    images_of_folders,
    read_matlab,
)
from dinoforge.evaluation.layouts.named_images import open_named
from dinoforge.evaluation.layouts.stored import read_lines
from dinoforge.images import DecodePolicy
from dinoforge.randomness import uniforms
from dinoforge.sources.image_set import ImageSet

__all__ = ["FINE_GRAINED", "VOC_CLASSES", "FineGrained", "read_fine_grained", "read_splits"]

_Named = tuple[list[str], list[int], Sequence[str]]  # files below the root, labels, classes

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)
# fmt: on
_CALTECH_TRAIN = 30  # images per class for train; the authors publish no lists


@dataclass(frozen=True)
class FineGrained:
    """One of the twelve sets: how it is split and scored."""

    classes: int
    metric: Metric
    splits: tuple[str, ...]  # published; without "val" a share of train is held out
    # None: no image files; give tars or class folders to `train` and `test`
    read: Callable[[Path, str], _Named] | None
    source: str


def read_fine_grained(
    name: str, root: Path, split: str, *, policy: DecodePolicy | None = None
) -> Classified:
    """Read a split of one of `FINE_GRAINED` from the folder that its archive unpacks to.

    Raises
    ------
    UsageError
        If there is no such set or split, or a file is missing (the first is named).
    """
    known = FINE_GRAINED.get(name)
    if known is None or known.read is None or split not in known.splits:
        readable = [one for one, facts in FINE_GRAINED.items() if facts.read is not None]
        choices = readable if known is None or known.read is None else known.splits
        raise UsageError(
            what=f"no layout for {name}, {split}",
            where="fine-grained sets",
            do=f"choose from {', '.join(choices)}",
        )
    files, labels, classes = known.read(root, split)
    lowest = -1 if known.metric == "map_11" else 0
    is_beyond = min(labels) < lowest or max(labels) >= known.classes
    if len(classes) != known.classes or is_beyond:
        what = f"{len(classes)} classes of {name}, or labels beyond them; need {known.classes}"
        raise UsageError(what=what, where=str(root), do="restore the lists of the data set")
    images = open_named(root, files, layout=name, policy=policy)
    targets = _voc_targets(root, split, len(files)) if known.metric == "map_11" else None
    return Classified(images, np.array(labels, np.int64), tuple(classes), targets=targets)


def read_splits(
    name: str, root: Path, splits: tuple[str, str], policy: DecodePolicy
) -> tuple[Classified, int, Tested]:
    """Read train with the published val behind it, how many images those are, and test.

    Raises
    ------
    UsageError
        As `read_fine_grained`.
    """
    known = FINE_GRAINED[name]
    read = partial(read_fine_grained, name, root, policy=policy)
    train, test = (read(split) for split in splits)
    if "val" not in known.splits or "val" in splits:
        return train, 0, Tested(test, metric=known.metric)
    val = read("val")
    targets = train.targets
    if targets is not None and val.targets is not None:
        targets = np.concatenate([targets, val.targets])
    images = ImageSet(pa.concat_tables([train.images.table, val.images.table]), policy)
    labels = np.concatenate([train.labels, val.labels])
    train_val = Classified(images, labels, train.classes, targets=targets)
    return train_val, len(val.labels), Tested(test, metric=known.metric)


def _food(root: Path, split: str) -> _Named:
    classes = sorted(read_lines(root / "meta" / "classes.txt", layout="Food-101"))
    lines = read_lines(root / "meta" / f"{split}.txt", layout="Food-101")
    labels = _positions([line.partition("/")[0] for line in lines], classes, root / "meta")
    return [f"images/{line}.jpg" for line in lines], labels, classes


def _sun(root: Path, split: str) -> _Named:
    """Partition 1 of 10; the lists are beside the folder of the images."""
    list_name = {"train": "Training_01.txt", "test": "Testing_01.txt"}[split]
    folder = root / "Partitions"
    classes = read_lines(folder / "ClassName.txt", layout="SUN397")
    lines = read_lines(folder / list_name, layout="SUN397")
    labels = _positions([line.rpartition("/")[0] for line in lines], classes, folder)
    return [f"SUN397{line}" for line in lines], labels, classes


def _cars(root: Path, split: str) -> _Named:
    names = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    devkit = root / "devkit"
    file = devkit / names[split] if split == "train" else root / names[split]
    annotations = read_matlab(file, layout="Stanford Cars")["annotations"]
    metadata = read_matlab(devkit / "cars_meta.mat", layout="Stanford Cars")
    files = [f"cars_{split}/{name}" for name in annotations["fname"]]
    labels = [int(label) - 1 for label in annotations["class"]]
    return files, labels, [str(name) for name in metadata["class_names"]]


def _aircraft(root: Path, split: str) -> _Named:
    folder = root / "data"
    classes = read_lines(folder / "variants.txt", layout="FGVC-Aircraft")
    lines = read_lines(folder / f"images_variant_{split}.txt", layout="FGVC-Aircraft")
    pairs = [line.partition(" ") for line in lines]
    labels = _positions([variant for _, _, variant in pairs], classes, folder)
    return [f"data/images/{number}.jpg" for number, _, _ in pairs], labels, classes


def _textures(root: Path, split: str) -> _Named:
    """Split 1 of 10."""
    lines = read_lines(root / "labels" / f"{split}1.txt", layout="DTD")
    classes = folders_in(root / "images", layout="DTD")
    labels = _positions([line.partition("/")[0] for line in lines], classes, root / "images")
    return [f"images/{line}" for line in lines], labels, classes


def _pets(root: Path, split: str) -> _Named:
    list_name = {"train": "trainval.txt", "test": "test.txt"}[split]
    lines = read_lines(root / "annotations" / list_name, layout="Oxford-IIIT Pet")
    rows = [line.split(" ") for line in lines]
    every = read_lines(root / "annotations" / "trainval.txt", layout="Oxford-IIIT Pet")
    names = {int(row[1]) - 1: row[0].rpartition("_")[0] for row in map(str.split, every)}
    classes = [names[number] for number in sorted(names)]
    return [f"images/{row[0]}.jpg" for row in rows], [int(row[1]) - 1 for row in rows], classes


def _caltech(root: Path, split: str) -> _Named:
    """With the background class. 30 keyed images of each class are train, the others test."""
    folder = root / "101_ObjectCategories"
    classes = folders_in(folder, layout="Caltech-101")
    files, positions = images_of_folders(folder, classes, layout="Caltech-101")
    draws = uniforms(0, "evaluation/caltech101", np.arange(len(files)))[:, 0]
    of_class = np.array(positions, np.int64)
    order = np.lexsort((draws, of_class))
    counts = np.bincount(of_class)
    ranks = np.arange(len(files)) - (np.cumsum(counts) - counts)[of_class[order]]
    chosen = np.sort(order[(ranks < _CALTECH_TRAIN) == (split == "train")])
    names = [f"101_ObjectCategories/{files[row]}" for row in chosen]
    return names, [positions[row] for row in chosen], classes


def _flowers(root: Path, split: str) -> _Named:
    variable = {"train": "trnid", "val": "valid", "test": "tstid"}[split]
    numbers = np.atleast_1d(read_matlab(root / "setid.mat", layout="Flowers-102")[variable])
    labels = np.atleast_1d(read_matlab(root / "imagelabels.mat", layout="Flowers-102")["labels"])
    files = [f"jpg/image_{number:05d}.jpg" for number in numbers]
    of_split = [int(labels[number - 1]) - 1 for number in numbers]
    return files, of_split, [str(number + 1) for number in range(102)]


def _birds(root: Path, split: str) -> _Named:
    images, labels, is_train, names = (
        dict(line.split(" ", 1) for line in read_lines(root / file, layout="CUB-200-2011"))
        for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    chosen = [number for number in images if (is_train[number] == "1") == (split == "train")]
    files = [f"images/{images[number]}" for number in chosen]
    return files, [int(labels[number]) - 1 for number in chosen], list(names.values())


def _voc(root: Path, split: str) -> _Named:
    lines = _voc_lines(root, VOC_CLASSES[0], split)
    return [f"JPEGImages/{number}.jpg" for number, _ in lines], [-1] * len(lines), VOC_CLASSES


def _voc_lines(root: Path, name: str, split: str) -> list[list[str]]:
    file = root / "ImageSets" / "Main" / f"{name}_{split}.txt"
    return [line.split() for line in read_lines(file, layout="VOC2007")]


def _voc_targets(root: Path, split: str, num: int) -> NDArray[np.int8]:
    """Read 1, 0 and -1 for present, absent and difficult; the files have 1, -1 and 0."""
    targets = np.zeros((num, len(VOC_CLASSES)), np.int8)
    for column, name in enumerate(VOC_CLASSES):
        values = np.array([int(value) for _, value in _voc_lines(root, name, split)])
        if len(values) != num:
            what = f"{len(values)} lines for {name}, {num} for {VOC_CLASSES[0]}"
            where = str(root / "ImageSets" / "Main")
            raise UsageError(what=what, where=where, do="restore the lists of VOC2007")
        targets[:, column] = np.select([values > 0, values < 0], [1, 0], -1)
    return targets


def _positions(names: Sequence[str], classes: Sequence[str], where: Path) -> list[int]:
    at = {name: position for position, name in enumerate(classes)}
    unknown = next((name for name in names if name not in at), None)
    if unknown is not None:
        what = f"`{unknown}` is none of the {len(classes)} classes"
        raise UsageError(what=what, where=str(where), do="restore the lists of the data set")
    return [at[name] for name in names]


_TRAIN_TEST = ("train", "test")
_THREE = ("train", "val", "test")

# Metrics as in the published code of SSL-Transfer (CUB: accuracy, as in DINOv2's paper).
FINE_GRAINED: Mapping[str, FineGrained] = {
    "food101": FineGrained(101, "accuracy", _TRAIN_TEST, _food, "Bossard et al. 2014"),
    "cifar10": FineGrained(10, "accuracy", _TRAIN_TEST, None, "Krizhevsky 2009"),
    "cifar100": FineGrained(100, "accuracy", _TRAIN_TEST, None, "Krizhevsky 2009"),
    "sun397": FineGrained(397, "accuracy", _TRAIN_TEST, _sun, "Xiao et al. 2010"),
    "cars": FineGrained(196, "accuracy", _TRAIN_TEST, _cars, "Krause et al. 2013"),
    "aircraft": FineGrained(100, "mean_per_class", _THREE, _aircraft, "Maji et al. 2013"),
    "voc2007": FineGrained(20, "map_11", _THREE, _voc, "Everingham et al. 2010"),
    "dtd": FineGrained(47, "accuracy", _THREE, _textures, "Cimpoi et al. 2014"),
    "pets": FineGrained(37, "mean_per_class", _TRAIN_TEST, _pets, "Parkhi et al. 2012"),
    "caltech101": FineGrained(102, "mean_per_class", _TRAIN_TEST, _caltech, "Fei-Fei et al. 2004"),
    "flowers102": FineGrained(102, "mean_per_class", _THREE, _flowers, "Nilsback et al. 2008"),
    "cub200": FineGrained(200, "accuracy", _TRAIN_TEST, _birds, "Wah et al. 2011"),
}
