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


def write_nyu(folder: Path, *, train=8, test=4, side=48) -> Path:
    """Write ``nyu_tars``: three classes in blocks of 8 pixels, each with a color and a depth."""
    for split, count in (("train", train), ("test", test)):
        members = {}
        for number in range(count):
            rng = np.random.default_rng([number, len(split)])
            labels = rng.integers(0, 3, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
            noise = rng.normal(0, 20, (side, side, 3))
            picture = (COLORS[labels] + noise).clip(0, 255).astype(np.uint8)
            depth = (1000 + 2000 * labels).astype(np.uint16)
            members[f"{number:03d}.jpg"] = encode(picture, "JPEG")
            members[f"{number:03d}.seg.png"] = encode(labels.astype(np.uint8))
            members[f"{number:03d}.depth.png"] = encode(depth)
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
    """Write ``voc07_boxes``: a square in each image."""
    root = folder / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        ((picture, labels),) = moving_square(1, seed=number)
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
