"""Data sets by their published layouts, with a truth other than one class per image.

Opening one lists files and reads no image; a protocol opens it again for its truth.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.evaluation.config import LAYOUTS, SetConfig
from dinoforge.evaluation.layouts.boxes import BoxedImage, open_coco20k, open_voc_boxes
from dinoforge.evaluation.layouts.classified import Classified, Grading, Tested, read_multi_label
from dinoforge.evaluation.layouts.clips import open_split
from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.layouts.dense_tars import open_camvid_tars, open_nyu_tars
from dinoforge.evaluation.layouts.depth import open_kitti, open_nyu_depth
from dinoforge.evaluation.layouts.fine_grained import FINE_GRAINED, read_splits
from dinoforge.evaluation.layouts.named_images import open_stored
from dinoforge.evaluation.layouts.robustness import imagenet_classes, read_imagenet, read_tests
from dinoforge.evaluation.layouts.searches.opening import OPENERS, Opened, Sources
from dinoforge.evaluation.layouts.segmentation import (
    open_ade20k,
    open_camvid,
    open_cityscapes,
    open_nyu_segmentation,
    open_voc,
)
from dinoforge.evaluation.layouts.stored import missing_file
from dinoforge.evaluation.layouts.video import VideoSequence, open_davis, open_video_tars
from dinoforge.evaluation.methods.clips import frame_indices
from dinoforge.files import hash_json
from dinoforge.images import DecodePolicy

__all__ = ["Published", "fingerprint_files", "open_published"]


@dataclass(frozen=True)
class Published:
    """The images of a data set, the bank's first, and what is known of the test images."""

    table: pa.Table  # of `LISTING_SCHEMA`
    in_bank: NDArray[np.bool_]
    in_test: NDArray[np.bool_]
    truth: Any  # what its protocols take: see the functions below
    truth_bytes: Callable[[], Iterable[bytes]]  # of the test images, for the hash in records
    boxes: Sequence[list[float] | None] | None = None  # what queries show of their images
    # of images with classes:
    labels: NDArray[np.int64] | None = None  # the class of each, -1: none, or several
    targets: NDArray[np.int8] | None = None  # of the bank, see `Classified`
    gradings: Sequence[Grading] = ()
    num_val: int = 0  # images at the end of the bank on which choices are made


def open_published(one: SetConfig, policy: DecodePolicy, cache: Path | None = None) -> Published:
    """Open the data set of a recipe that names a layout; its paths start in the working folder.

    ``cache`` is a folder for uncompressed tars, needed where `train` adds images to the bank.

    Raises
    ------
    UsageError
        If the layout is another one: names the first missing file.
    """
    root = Path(one.root)
    if not root.exists():
        raise missing_file(root, layout=one.layout)
    bank, test = one.splits or LAYOUTS[one.layout].splits
    if one.layout == "imagenet":
        return _imagenet(root, (bank, test), one.tests, policy)
    if one.layout in FINE_GRAINED:
        return _classified(*read_splits(one.layout, root, (bank, test), policy))
    if one.layout in OPENERS:
        sources = Sources(root, one.train, bank, test, policy, cache or root)
        return _search(OPENERS[one.layout](sources))
    return _OPEN[one.layout](root, bank, test, policy)


def fingerprint_files(root: str) -> str:
    """Hash names, sizes and times of a file, or of all files below a folder, behind links, too."""
    paths = [root] if Path(root).is_file() else []
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = [] if _is_above(folder) else names
        paths += [f"{folder}/{name}" for name in files]
    stats = [(path, Path(path).stat()) for path in sorted(paths) if Path(path).is_file()]
    return hash_json([[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats])


def _is_above(folder: str) -> bool:
    """Whether a folder is a link to one of those above it: a loop."""
    real = Path(folder).resolve()
    return Path(folder).is_symlink() and Path(folder).absolute().is_relative_to(real)


def _classified(train: Classified, num_val: int, *tests: Tested) -> Published:
    """No truth: the classes are known with the images."""
    tables, labels = [train.images.table], [train.labels]
    boxes: list[list[float] | None] = [None] * len(train.labels)
    first: dict[int, int] = {}  # identity of images -> row of the first: some are tested twice
    gradings = []
    for tested in tests:
        images = tested.images.images
        if id(images) not in first:
            first[id(images)] = sum(map(len, labels))
            tables.append(images.table)
            labels.append(tested.images.labels)
            boxes += tested.boxes()
        gradings.append(tested.grading(first[id(images)]))
    in_bank = np.arange(sum(map(len, labels))) < len(labels[0])

    def truth_bytes() -> Iterable[bytes]:
        for one in gradings:
            yield repr((one.name, one.metric, one.kept)).encode()
            yield one.truths.tobytes()

    return Published(
        pa.concat_tables(tables),
        in_bank,
        ~in_bank,
        None,
        truth_bytes,
        boxes=boxes,
        labels=np.concatenate(labels),
        targets=train.targets,
        gradings=gradings,
        num_val=num_val,
    )


def _multi_label(root: Path, bank: str, test: str, policy: DecodePolicy) -> Published:
    train = read_multi_label(root, bank, policy=policy)
    asked = read_multi_label(root, test, train.classes, policy=policy)
    return _classified(train, 0, Tested(asked, metric="map"))


def _imagenet(
    root: Path, splits: tuple[str, str], tests: Mapping[str, str], policy: DecodePolicy
) -> Published:
    classes = imagenet_classes(root)
    train, val = (read_imagenet(root, split, classes, policy=policy) for split in splits)
    return _classified(train, 0, Tested(val), *read_tests(tests, val, policy))


def _search(opened: Opened) -> Published:
    """Truth: that of the opener."""
    parts = [part for part in (opened.bank, opened.test, opened.others) if part is not None]
    table = pa.concat_tables([part.table for part in parts])
    rows, num_bank = np.arange(table.num_rows), len(opened.bank)
    in_bank = in_test = rows < num_bank
    if opened.test is not None:
        in_test = (rows >= num_bank) & (rows < num_bank + len(opened.test))
    boxes: list[list[float] | None] | None = None
    if opened.boxes is not None:
        boxes = [None] * table.num_rows
        boxes[num_bank : num_bank + len(opened.boxes)] = opened.boxes.tolist()

    def truth_bytes() -> Iterable[bytes]:
        return (repr(fact).encode() for fact in opened.facts)

    return Published(table, in_bank, in_test, opened.truth, truth_bytes, boxes)


def _dense(
    open_split: Callable[[Path, str], DenseSet], root: Path, splits: Sequence[str]
) -> Published:
    """Truth: a `DenseSet` for each split."""
    bank, test = (open_split(root, split) for split in splits)
    files = [item.image for data in (bank, test) for item in data.items]
    in_bank = np.arange(len(files)) < len(bank.items)

    def truth_bytes() -> Iterable[bytes]:
        yield repr(sorted(test.class_of.items())).encode()
        for item in test.items:
            yield from (file.read() for file in (item.labels, item.depth) if file is not None)

    return Published(open_stored(files).table, in_bank, ~in_bank, (bank, test), truth_bytes)


def _videos(videos: Sequence[VideoSequence]) -> Published:
    """Truth: the videos; the rows of images are their frames, video after video."""
    frames = [frame for video in videos for frame in video.frames]
    every = np.ones(len(frames), np.bool_)

    def truth_bytes() -> Iterable[bytes]:
        return (file.read() for video in videos for file in video.annotations)

    return Published(open_stored(frames).table, ~every, every, list(videos), truth_bytes)


def _boxed(images: Sequence[BoxedImage]) -> Published:
    """Truth: the images with their boxes."""
    every = np.ones(len(images), np.bool_)

    def truth_bytes() -> Iterable[bytes]:
        return (repr((one.name, one.boxes.tolist())).encode() for one in images)

    table = open_stored([one.image for one in images]).table
    return Published(table, ~every, every, list(images), truth_bytes)


def _clips(root: Path, bank: str, test: str, policy: DecodePolicy) -> Published:  # noqa: ARG001
    """Truth: the clips of both splits; rows are the frames that are chosen of each, in order."""
    known = open_split(root, bank)
    asked = open_split(root, test, classes=known.classes)
    frames = [
        [clip.frames[at] for clip in part.clips for at in frame_indices(len(clip.frames))]
        for part in (known, asked)
    ]
    in_bank = np.repeat([True, False], [len(part) for part in frames])

    def truth_bytes() -> Iterable[bytes]:
        return (repr((clip.name, clip.label)).encode() for clip in asked.clips)

    table = open_stored([*frames[0], *frames[1]]).table
    return Published(table, in_bank, ~in_bank, (known, asked), truth_bytes)


def _davis(year: Literal[2016, 2017]) -> "_Open":
    def open_split(root: Path, bank: str, test: str, policy: DecodePolicy) -> Published:  # noqa: ARG001
        return _videos(open_davis(root, year=year, subset=test))

    return open_split


def _both_splits(open_split: Callable[[Path, str], DenseSet]) -> "_Open":
    def open_both(root: Path, bank: str, test: str, policy: DecodePolicy) -> Published:  # noqa: ARG001
        return _dense(open_split, root, (bank, test))

    return open_both


_Open = Callable[[Path, str, str, DecodePolicy], Published]

_OPEN: dict[str, _Open] = {
    "multi_label": _multi_label,
    "ade20k": _both_splits(open_ade20k),
    "voc07": _both_splits(partial(open_voc, year=2007)),
    "voc12": _both_splits(open_voc),
    "cityscapes": _both_splits(open_cityscapes),
    "camvid": _both_splits(open_camvid),
    "camvid_tars": _both_splits(open_camvid_tars),
    "nyu_depth": _both_splits(open_nyu_depth),
    "nyu_40": _both_splits(open_nyu_segmentation),
    "nyu_tars": _both_splits(open_nyu_tars),
    "kitti": _both_splits(open_kitti),
    "davis2016": _davis(2016),
    "davis2017": _davis(2017),
    "video_tars": lambda root, *_: _videos(open_video_tars(sorted(root.glob("*.tar")))),
    "voc07_boxes": lambda root, _, test, __: _boxed(open_voc_boxes(root, year=2007, subset=test)),
    "voc12_boxes": lambda root, _, test, __: _boxed(open_voc_boxes(root, year=2012, subset=test)),
    "coco20k": lambda root, _, test, __: _boxed(open_coco20k(root, root / test)),
    "clips": _clips,
}
