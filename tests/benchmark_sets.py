"""Tiny data sets in published layouts, whose answers can be seen in their colors."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([(40, 60, 200), (50, 190, 60), (200, 50, 40)])


def encode(pixels, kind="PNG"):
    """Encode an image; 16-bit arrays become 16-bit gray."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members) -> Path:
    """Write members, name -> bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def scene(number: int, split: str, blocks=(6, 6), cell=(8, 8)):
    """Draw blocks of three classes, each with a color and a depth: image and labels.

    ``cell`` are the height and width of a block in pixels.
    """
    rng = np.random.default_rng([number, len(split)])
    labels = rng.integers(0, 3, blocks).repeat(cell[0], 0).repeat(cell[1], 1).astype(np.uint8)
    noise = rng.normal(0, 20, (*labels.shape, 3))
    return (COLORS[labels] + noise).clip(0, 255).astype(np.uint8), labels


def depth_of(labels, steps=1000):
    """Give the three classes depths of 1, 3 and 5 times some stored steps."""
    return (steps * (1 + 2 * labels.astype(np.int64))).astype(np.uint16)


def write_file(path: Path, data: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_nyu(folder: Path, *, train=8, test=4, side=48) -> Path:
    """Write ``nyu_tars``: masks of three classes, and depth."""
    for split, count in (("train", train), ("test", test)):
        members = {}
        for number in range(count):
            picture, labels = scene(number, split, (side // 8, side // 8))
            members[f"{number:03d}.jpg"] = encode(picture, "JPEG")
            members[f"{number:03d}.seg.png"] = encode(labels)
            members[f"{number:03d}.depth.png"] = encode(depth_of(labels))
        write_tar(folder / f"nyu-{split}-000000.tar", members)
    (folder / "classes.txt").write_text("blue\ngreen\nred\n")
    return folder


def moving_square(frames: int, *, side=48, seed=0):
    """Draw a red square of 16 pixels that moves to the right: frames and masks (0, 1)."""
    rng = np.random.default_rng(seed)
    for number in range(frames):
        labels = np.zeros((side, side), np.uint8)
        left = 8 + 2 * number
        labels[8 + 8 * seed : 24 + 8 * seed, left : left + 16] = 1
        noise = rng.normal(0, 20, (side, side, 3))
        yield (COLORS[2 * labels] + noise).clip(0, 255).astype(np.uint8), labels


def write_videos(folder: Path, *, videos=2, frames=6) -> Path:
    """Write ``video_tars``: a moving square in each."""
    for video in range(videos):
        members = {}
        for number, (picture, labels) in enumerate(moving_square(frames, seed=video)):
            members[f"square-{video}_{number:05d}.jpg"] = encode(picture, "JPEG")
            members[f"square-{video}_{number:05d}.png"] = encode(labels)
        write_tar(folder / f"square-{video}.tar", members)
    return folder


def write_boxes(folder: Path, *, images=3) -> Path:
    """Write ``voc07_boxes``: a square in each image, whose sides are no multiple of a patch."""
    root = folder / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        ((picture, labels),) = moving_square(1, seed=number, side=45)
        (root / f"JPEGImages/{number:06d}.jpg").write_bytes(encode(picture, "JPEG"))
        rows, columns = (np.flatnonzero(labels.any(axis=axis)) for axis in (1, 0))
        sides = {"xmin": columns[0], "ymin": rows[0], "xmax": columns[-1], "ymax": rows[-1]}
        box = "".join(f"<{side}>{at + 1}</{side}>" for side, at in sides.items())
        text = f"<annotation><object><bndbox>{box}</bndbox></object></annotation>"
        (root / f"Annotations/{number:06d}.xml").write_text(text)
    names = "".join(f"{number:06d}\n" for number in range(images))
    (root / "ImageSets/Main/trainval.txt").write_text(names)
    return folder


def write_voc(folder: Path, *, images=2) -> Path:
    """Write ``voc07``: a square in each image, its border of 1 pixel not annotated."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        ((picture, labels),) = moving_square(1, seed=number)
        rows, columns = np.nonzero(labels)
        inside = slice(rows.min() + 1, rows.max()), slice(columns.min() + 1, columns.max())
        labels = np.where(labels, 255, 0).astype(np.uint8)
        labels[inside] = 7
        (folder / f"JPEGImages/{number:06d}.jpg").write_bytes(encode(picture, "JPEG"))
        (folder / f"SegmentationClass/{number:06d}.png").write_bytes(encode(labels))
    names = "".join(f"{number:06d}\n" for number in range(images))
    for split in ("train", "val"):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    return folder


def write_clips(folder: Path, *, train=4, test=2, frames=3) -> Path:
    """Write ``clips``: videos of one color, red or green, with noise."""
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("green", "red"), 1):
            for video in range(count):
                place = folder / split / name / f"video-{video}"
                place.mkdir(parents=True)
                rng = np.random.default_rng([label, video, len(split)])
                for number in range(frames):
                    noise = rng.normal(0, 20, (24, 24, 3))
                    picture = (COLORS[label] + noise).clip(0, 255).astype(np.uint8)
                    (place / f"{number}.jpg").write_bytes(encode(picture, "JPEG"))
    return folder


def write_camvid(folder: Path, *, train=8, test=4) -> Path:
    """Write ``camvid_tars``: two drives of neighboring frames."""
    for split, count in (("train", train), ("test", test)):
        members = {}
        for number in range(count):
            picture, labels = scene(number, split)
            members[f"drive{number % 2}_{number:03d}.jpg"] = encode(picture, "JPEG")
            members[f"drive{number % 2}_{number:03d}.png"] = encode(labels)
        write_tar(folder / f"camvid-{split}-000000.tar", members)
    (folder / "classes.txt").write_text("blue\ngreen\nred\n")
    return folder


# Layout -> images and masks of image N of a split, and what the masks store for the three classes.
_MASKED = {
    "ade20k": ("images/{split}/{key}.jpg", "annotations/{split}/{key}.png", (1, 2, 3)),
    "voc12": ("JPEGImages/{split}{key}.jpg", "SegmentationClass/{split}{key}.png", (0, 1, 2)),
    "cityscapes": (
        "leftImg8bit/{split}/city/{key}_leftImg8bit.png",
        "gtFine/{split}/city/{key}_gtFine_labelIds.png",
        (7, 8, 11),
    ),
    "camvid": ("{split}/{key}.png", "{split}annot/{key}.png", (0, 1, 2)),
    "nyu_40": ("RGB/{split}{key}.jpg", "Label/{split}{key}.png", (1, 2, 40)),
}
_LISTS = {"voc12": "ImageSets/Segmentation/{split}.txt", "nyu_40": "{split}.txt"}


def write_masked(folder: Path, layout: str, splits, *, train=8, test=4) -> Path:
    """Write a published layout of masks with images of several sizes."""
    image_at, mask_at, stored = _MASKED[layout]
    for split, count in zip(splits, (train, test), strict=True):
        for number in range(count):
            picture, labels = scene(number, split, cell=(8 + 2 * (number % 2), 8 + number % 3))
            names = {"split": split, "key": f"{number:03d}"}
            is_png = image_at.endswith("png")
            write_file(
                folder / image_at.format(**names), encode(picture, "PNG" if is_png else "JPEG")
            )
            write_file(folder / mask_at.format(**names), encode(np.array(stored, np.uint8)[labels]))
        if layout in _LISTS:
            lines = "".join(f"{split}{number:03d}\n" for number in range(count))
            write_file(folder / _LISTS[layout].format(split=split), lines.encode())
    return folder


def write_depth(folder: Path, layout: str, *, train=8, test=4) -> Path:
    """Write ``nyu_depth``, or ``kitti`` of wide images in which few pixels have a depth."""
    is_kitti = layout == "kitti"
    blocks, cell = ((6, 20), (60, 61)) if is_kitti else ((6, 8), (8, 8))
    for split, count in (("train", train), ("test", test)):
        lines = ""
        for number in range(count):
            picture, labels = scene(number, split, blocks, cell)
            depth = depth_of(labels, 2560 if is_kitti else 1000)
            if is_kitti:
                depth[np.arange(len(depth)) % 5 > 0] = 0
            image, truth = f"{split}/{number:03d}.jpg", f"{split}/{number:03d}.png"
            write_file(folder / image, encode(picture, "JPEG"))
            write_file(folder / truth, encode(depth))
            lines += f"{image} {truth} 518.8\n"
        name = f"kitti_eigen_{split}.txt" if is_kitti else f"nyu_{split}.txt"
        write_file(folder / name, lines.encode())
    return folder
