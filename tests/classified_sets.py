"""Tiny data sets of images with classes in published layouts; classes can be seen in colors."""

import json
from pathlib import Path

import numpy as np
from benchmark_sets import COLORS, encode

from dinoforge.evaluation.layouts.fine_grained import VOC_CLASSES
from dinoforge.evaluation.metrics.classification import ALEXNET_ERRORS

IMAGENET = ("n01", "n02", "n03")  # of the colors of COLORS


def color_picture(color, seed, side=12):
    """Draw one color with little noise."""
    noise = np.random.default_rng(seed).normal(0, 8, (side, side, 3))
    return (np.asarray(color) + noise).clip(0, 255).astype(np.uint8)


def write_files(folder: Path, files) -> None:
    """Write images, name -> pixels."""
    for name, pixels in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels))


def write_imagenet(root: Path) -> dict[str, str]:
    """Write ImageNet with three classes in ``root/imagenet``; returns paths of `SetConfig.tests`.

    Of ImageNet-A and -R one of 4 images looks like the class that does not compete, and one is
    wrong; of ImageNet-C only severities 4 and 5 of fog look like n01; ObjectNet has a red frame.
    """
    every = dict(zip(IMAGENET, COLORS, strict=True))

    def colored(names, shown=None):
        return {
            name: color_picture(every[name.split("/")[0]] if shown is None else shown, number)
            for number, name in enumerate(names)
        }

    write_files(
        root / "imagenet/train", colored(f"{w}/{w}_{i}.png" for w in IMAGENET for i in range(4))
    )
    val = [
        f"{w}/ILSVRC2012_val_{3 * i + n + 1:08d}.png"
        for n, w in enumerate(IMAGENET)
        for i in range(2)
    ]
    write_files(root / "imagenet/val", colored(val))
    # Set i is that of number i + 1; of the first both the class and another one, of the last none.
    (root / "real.json").write_text("[[0, 2], [1], [0], [0], [1], []]")
    folders = {str(n): color for n, color in enumerate(COLORS)}
    write_files(root / "v2", {f"{n}/0.png": color_picture(c, 5) for n, c in folders.items()})
    purple = 0.45 * COLORS[0] + 0.55 * COLORS[2]  # nearest to n03, which does not compete
    some = {"n01/0.png": purple, "n01/1.png": COLORS[0], "n02/0.png": COLORS[0]}
    some |= {"n02/1.png": COLORS[1]}
    for name in ("a", "r"):
        write_files(root / name, {n: color_picture(c, 6) for n, c in some.items()})
    write_files(root / "sketch", colored(f"{w}/sketch_0.png" for w in IMAGENET))
    for corruption in ALEXNET_ERRORS:
        for severity in range(1, 6):
            is_hard = corruption == "fog" and severity > 3
            files = colored(val[::2], COLORS[0] if is_hard else None)
            write_files(root / "c" / corruption / str(severity), files)
    write_objectnet(root / "objectnet")
    return {name: str(root / name) for name in ("v2", "a", "r", "sketch", "objectnet", "c")} | {
        "real": str(root / "real.json")
    }


def write_objectnet(root: Path) -> None:
    """Write two objects: a chair that is n01 or n02, a pen that is n02, and one of no class."""
    framed = {}
    for name, color in (
        ("chair/0.png", 1),
        ("chair/1.png", 2),
        ("pen/0.png", 1),
        ("fork/0.png", 0),
    ):
        picture = color_picture(COLORS[color], 9)
        framed[name] = np.full((16, 16, 3), (255, 0, 0), np.uint8)
        framed[name][2:-2, 2:-2] = picture
    write_files(root / "images", framed)
    (root / "mappings").mkdir()
    texts = {
        "folder_to_objectnet_label.json": {"chair": "Chair", "pen": "Pen", "fork": "Fork"},
        "objectnet_to_imagenet_1k.json": {"Chair": "barber chair; rocker", "Pen": "rocker"},
        "pytorch_to_imagenet_2012_id.json": {"0": 0, "1": 1, "2": 2},
    }
    for name, value in texts.items():
        (root / "mappings" / name).write_text(json.dumps(value))
    (root / "mappings/imagenet_to_label_2012_v2").write_text("barber chair\nrocker\ntench")


def class_colors(count):
    """Return colors that differ in hue, ``[count, 3]``."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    return (128 + 100 * np.cos(angles + np.array([0, 2.1, 4.2]))).astype(int)


def write_lines(file: Path, lines) -> None:
    """Write a list."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def write_pets(root: Path) -> Path:
    """Write Oxford-IIIT Pet: class 0 has three test images, two of which look like class 18."""
    colors = class_colors(37)
    lists = {"trainval": [], "test": []}
    for number, color in enumerate(colors):
        counts = {"trainval": 2, "test": 3 if number == 0 else 1}
        for split, count in counts.items():
            for at in range(count):
                name = f"breed{number}_{split}{at}"
                shown = colors[18] if (number, split) == (0, "test") and at else color
                write_files(root / "images", {f"{name}.jpg": color_picture(shown, at, side=6)})
                lists[split].append(f"{name} {number + 1} 1 1")
    for split, lines in lists.items():
        write_lines(root / f"annotations/{split}.txt", lines)
    return root


def write_textures(root: Path) -> Path:
    """Write the Describable Textures: an image of each class in train, val and test."""
    for split in ("train", "val", "test"):
        names = [f"kind{n:02d}/{split}.png" for n in range(47)]
        pictures = [color_picture(color, 3, side=6) for color in class_colors(47)]
        write_files(root / "images", dict(zip(names, pictures, strict=True)))
        write_lines(root / f"labels/{split}1.txt", names)
    return root


def _striped(labels, seed):
    """An image with a stripe of each label's color, on black."""
    picture = np.zeros((12, 12, 3))
    for label in labels:
        picture[4 * label : 4 * label + 4] = COLORS[label]
    noise = np.random.default_rng(seed).normal(0, 8, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def several_labels(seed, count):
    """Draw which of three labels images have."""
    return np.random.default_rng(seed).random((count, 3)) < 0.5


def write_voc2007(root: Path, counts=(20, 10, 24)) -> Path:
    """Write VOC2007 with images of the first three of its labels; image 0 is difficult."""
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        present = several_labels(count, count)
        rows = [f"{split}{n}" for n in range(count)]
        pictures = [_striped(np.flatnonzero(row), n) for n, row in enumerate(present)]
        files = {f"{row}.jpg": picture for row, picture in zip(rows, pictures, strict=True)}
        write_files(root / "JPEGImages", files)
        for label, name in enumerate(VOC_CLASSES):
            has = present[:, label] if label < 3 else np.zeros(count, bool)
            values = [0 if n == 0 else 1 if has[n] else -1 for n in range(count)]
            lines = [f"{row} {value:2d}" for row, value in zip(rows, values, strict=True)]
            write_lines(root / f"ImageSets/Main/{name}_{split}.txt", lines)
    return root


def write_multi_label(root: Path, counts=(30, 24)) -> Path:
    """Write lists of images with any of three labels."""
    for split, count in zip(("train", "test"), counts, strict=True):
        lines = []
        for number, row in enumerate(several_labels(count, count)):
            labels = np.flatnonzero(row)
            write_files(root, {f"{split}/{number}.png": _striped(labels, number)})
            lines.append(",".join([f"{split}/{number}.png", *("abc"[label] for label in labels)]))
        write_lines(root / f"{split}.csv", lines)
    return root
