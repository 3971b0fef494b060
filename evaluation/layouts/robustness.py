"""ImageNet-1k and the sets that test its classifiers elsewhere, in their published layouts.

A class is the position of its WordNet id among the 1,000, sorted: the order of every released
classifier. ``classes`` are those ids, from `imagenet_classes`. Images are never re-selected here;
which scores compete, and which answers are right, is part of `Classified`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.classified import (
    Classified,
    Tested,
    folders_in,
    images_of_folders,
)
from dinoforge.evaluation.layouts.named_images import images_in, open_named
from dinoforge.evaluation.layouts.stored import first_missing, read_json, read_lines
from dinoforge.evaluation.metrics.classification import ALEXNET_ERRORS, SEVERITIES
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import ImageSet

__all__ = [
    "OBJECTNET_BORDER",
    "imagenet_classes",
    "read_corruption",
    "read_corruptions",
    "read_imagenet",
    "read_imagenet_v2",
    "read_objectnet",
    "read_tests",
    "read_wordnet_folders",
    "with_real_labels",
]

_COUNT = 1000
_SOME = 200  # classes of ImageNet-A and of ImageNet-R
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
# Groups of tars that some keep as folders above the corruptions of ImageNet-C.
_GROUPS = ("", "noise", "blur", "weather", "digital")
# ObjectNet's terms ask to crop the red frame of this many pixels before an image is used.
OBJECTNET_BORDER = 2


def imagenet_classes(root: Path) -> tuple[str, ...]:
    """Read the 1,000 WordNet ids: the folders of ``train``, or the lines of ``classes.txt``.

    Raises
    ------
    UsageError
        If there are not 1,000.
    """
    listed = root / "classes.txt"
    if listed.exists():
        names = [line.split()[0] for line in read_lines(listed, layout="ImageNet")]
    else:
        names = folders_in(root / "train", layout="ImageNet")
    if len(set(names)) != _COUNT or names != sorted(names):
        raise UsageError(
            what=f"{len(set(names))} classes of ImageNet, or not in order; need {_COUNT}, sorted",
            where=str(listed if listed.exists() else root / "train"),
            do="complete `train`, or write the 1,000 WordNet ids, sorted, to classes.txt",
        )
    return tuple(names)


def read_imagenet(
    root: Path, split: str, classes: Sequence[str], *, policy: DecodePolicy | None = None
) -> Classified:
    """Read ``train`` or ``val``: class folders, or a flat ``val`` with Kaggle's solution.

    The flat one needs ``LOC_val_solution.csv`` in ``root``: ``ImageId,PredictionString`` with the
    id first.

    Raises
    ------
    UsageError
        That names the first missing file, or a folder that is no class.
    """
    solution = root / "LOC_val_solution.csv"
    if split != "val" or not solution.exists():
        return read_wordnet_folders(root / split, classes, layout="ImageNet", policy=policy)
    at = {name: number for number, name in enumerate(classes)}
    labels = {}
    for line in read_lines(solution, layout="ImageNet")[1:]:
        name, _, prediction = line.partition(",")
        labels[name] = _class_of(prediction.split(" ")[0], at, solution)
    # Every image of the list, in its order: a missing one is named.
    names = sorted(labels)
    images = open_named(
        root / split, [f"{name}.JPEG" for name in names], layout="ImageNet", policy=policy
    )
    return Classified(images, np.array([labels[name] for name in names], np.int64), tuple(classes))


def read_wordnet_folders(
    folder: Path,
    classes: Sequence[str],
    *,
    layout: str,
    count: int | None = None,
    policy: DecodePolicy | None = None,
) -> Classified:
    """Read folders named by WordNet ids: train, val, ImageNet-Sketch, ImageNet-A, ImageNet-R.

    ``count`` is the number of classes of a set that has not all (200 of A and of R): these alone
    compete, see ``kept``.

    Raises
    ------
    UsageError
        If a class folder is missing, or is of no class.
    """
    names = folders_in(folder, layout=layout)
    at = {name: number for number, name in enumerate(classes)}
    numbers = [_class_of(name, at, folder) for name in names]
    if count is None:
        first_missing([folder / name for name in classes], layout=layout)
    elif len(names) != count:
        what = f"{len(names)} of {count} class folders of {layout}"
        do = "give the root of the unpacked data set, complete"
        raise UsageError(what=what, where=str(folder), do=do)
    images, positions = images_of_folders(folder, names, layout=layout)
    return Classified(
        open_named(folder, images, layout=layout, policy=policy),
        np.array(numbers, np.int64)[positions],
        tuple(classes),
        kept=None if count is None else tuple(sorted(numbers)),
    )


def read_imagenet_v2(
    folder: Path, classes: Sequence[str], *, policy: DecodePolicy | None = None
) -> Classified:
    """Read ImageNet-V2: folders ``0`` to ``999``, whose class is that number.

    Sorted as text they are 0, 1, 10, 100, ...: readers that number the folders give wrong classes.

    Raises
    ------
    UsageError
        If a folder is missing, or its name is no class.
    """
    layout = "ImageNet-V2"
    names = [str(number) for number in range(len(classes))]
    first_missing([folder, *(folder / name for name in names)], layout=layout)
    images, labels = images_of_folders(folder, names, layout=layout)
    opened = open_named(folder, images, layout=layout, policy=policy)
    return Classified(opened, np.array(labels, np.int64), tuple(classes))


def read_corruption(
    root: Path,
    corruption: str,
    severity: int,
    classes: Sequence[str],
    *,
    policy: DecodePolicy | None = None,
) -> Classified:
    """Read one of the 15 corruptions of ImageNet-C at one of 5 severities.

    The folder is ``CORRUPTION/SEVERITY/WNID/``, in ``root`` or in the folder of its tar (``noise``,
    ``blur``, ``weather``, ``digital``).

    Raises
    ------
    UsageError
        That names the first missing folder.
    """
    assert corruption in ALEXNET_ERRORS, corruption
    assert 1 <= severity <= SEVERITIES, severity
    folders = [root / group / corruption / str(severity) for group in _GROUPS]
    folder = next((one for one in folders if one.is_dir()), folders[0])
    return read_wordnet_folders(folder, classes, layout="ImageNet-C", policy=policy)


def read_corruptions(
    root: Path, classes: Sequence[str], *, policy: DecodePolicy | None = None
) -> Tested:
    """Read all of ImageNet-C, each corruption and severity of the same images.

    Raises
    ------
    UsageError
        That names the first missing folder, or one with other images than the first.
    """
    parts: list[Classified] = []
    variants: list[tuple[int, int]] = []
    keys: list[str] = []
    for number, corruption in enumerate(ALEXNET_ERRORS):
        for severity in range(1, SEVERITIES + 1):
            part = read_corruption(root, corruption, severity, classes, policy=policy)
            names = part.images.table.column("key").to_pylist()
            keys = keys or names
            if names != keys:
                raise UsageError(
                    what=f"other images than those of `{next(iter(ALEXNET_ERRORS))}`, severity 1",
                    where=f"ImageNet-C, `{corruption}`, severity {severity}",
                    do="complete the data set",
                )
            parts.append(part)
            variants += [(image, number) for image in range(len(keys))]
    table = pa.concat_tables(part.images.table for part in parts)
    labels = np.concatenate([part.labels for part in parts])
    images = ImageSet(table, parts[0].images.policy)
    return Tested(Classified(images, labels, tuple(classes)), "c", "mce", np.array(variants))


def with_real_labels(val: Classified, file: Path) -> Classified:
    """Give the validation images the label sets of ImageNet-ReaL (``real.json``).

    Set i is that of ``ILSVRC2012_val_`` with number i + 1; empty sets drop their images.

    Raises
    ------
    UsageError
        If an image has no such number, or the list no set for it.
    """
    sets = read_json(file, layout="ImageNet-ReaL")
    truths = []
    for key in val.images.table.column("key").to_pylist():
        match = _VAL_NAME.search(key)
        number = int(match[1]) - 1 if match else -1
        if not 0 <= number < len(sets):
            raise UsageError(
                what=f"no label set for the image {key}: there are {len(sets)}",
                where=str(file),
                do="give the validation images under their published names",
            )
        truths.append(tuple(int(label) for label in sets[number]))
    empty = sum(not truth for truth in truths)
    return Classified(
        val.images, val.labels, val.classes, truths=tuple(truths), left_out={"no label": empty}
    )


def read_objectnet(
    root: Path, classes: Sequence[str], *, policy: DecodePolicy | None = None
) -> Classified:
    """Read ObjectNet's overlap with ImageNet: any of an object's ImageNet classes is right.

    ``images/FOLDER/`` and four files in ``mappings/``. Of its 313 classes 113 have ImageNet
    classes; images of the others are left out and counted. Crop the frame (`OBJECTNET_BORDER`).

    Raises
    ------
    UsageError
        That names the first missing file, or a name without an entry in the next mapping.
    """
    layout, mappings = "ObjectNet", root / "mappings"
    of_folder = read_json(mappings / "folder_to_objectnet_label.json", layout=layout)
    of_object = read_json(mappings / "objectnet_to_imagenet_1k.json", layout=layout)
    of_number = read_json(mappings / "pytorch_to_imagenet_2012_id.json", layout=layout)
    lines = read_lines(mappings / "imagenet_to_label_2012_v2", layout=layout)
    number_of_id = {int(of_2012): int(number) for number, of_2012 in of_number.items()}
    number_of_text = {line: number_of_id[at] for at, line in enumerate(lines) if at in number_of_id}
    folder_of = {label: folder for folder, label in of_folder.items()}
    names, truths = [], []
    for label, text in of_object.items():
        synonyms = text.split("; ")
        unknown = next((one for one in synonyms if one not in number_of_text), None)
        if unknown is not None or label not in folder_of:
            what = f"ObjectNet's `{label}`: no entry for `{unknown or label}`"
            raise UsageError(what=what, where=str(mappings), do="restore the files of mappings/")
        names.append(folder_of[label])
        truths.append(tuple(number_of_text[one] for one in synonyms))
    images, positions = images_of_folders(root / "images", names, layout=layout)
    others = set(folders_in(root / "images", layout=layout)) - set(names)
    left_out = sum(len(images_in(root / "images" / name, layout=layout)) for name in others)
    return Classified(
        open_named(root / "images", images, layout=layout, policy=policy),
        np.full(len(images), -1, np.int64),
        tuple(classes),
        truths=tuple(truths[position] for position in positions),
        left_out={"no ImageNet class": left_out},
    )


def _folders(layout: str, *, is_part: bool = False) -> "_Read":
    def read(path: Path, val: Classified, policy: DecodePolicy) -> Classified:
        count = _SOME if is_part else None
        return read_wordnet_folders(path, val.classes, layout=layout, count=count, policy=policy)

    return read


_Read = Callable[[Path, Classified, DecodePolicy], Classified]

# Name -> reader of images that test a classifier of ImageNet elsewhere, beside `c`.
_READ: Mapping[str, _Read] = {
    "real": lambda path, val, policy: with_real_labels(val, path),  # noqa: ARG005
    "v2": lambda path, val, policy: read_imagenet_v2(path, val.classes, policy=policy),
    "a": _folders("ImageNet-A", is_part=True),
    "r": _folders("ImageNet-R", is_part=True),
    "sketch": _folders("ImageNet-Sketch"),
    "objectnet": lambda path, val, policy: read_objectnet(path, val.classes, policy=policy),
}


def read_tests(paths: Mapping[str, str], val: Classified, policy: DecodePolicy) -> list[Tested]:
    """Read what else tests a classifier of ImageNet, by ``config.TESTS``: file or folder.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    return [
        read_corruptions(Path(path), val.classes, policy=policy)
        if name == "c"
        else Tested(
            _READ[name](Path(path), val, policy),
            name,
            border=OBJECTNET_BORDER if name == "objectnet" else 0,
        )
        for name, path in paths.items()
    ]


def _class_of(name: str, at: dict[str, int], where: Path) -> int:
    if name not in at:
        raise UsageError(
            what=f"`{name}` is none of the {len(at)} classes",
            where=str(where),
            do="give the folder whose folders are WordNet ids of ImageNet-1k",
        )
    return at[name]
