"""Images with a truth for every pixel: what the layouts of dense data sets return.

Items are listed without decoding anything. Masks and depth maps are checked when they are read:
against the size of their image, and against the list of classes.

Shapes: H x W pixels.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.errors import UsageError, first_line
from dinoforge.evaluation.layouts.stored import StoredFile, read_labels, read_pixels
from dinoforge.evaluation.metrics.depth import kitti_benchmark_crop
from dinoforge.evaluation.metrics.sizes import check_size
from dinoforge.images import DecodePolicy
from dinoforge.images.orientation import read_orientation

__all__ = [
    "IGNORED",
    "DenseItem",
    "DenseSet",
    "blocks_of_frames",
    "check_not_empty",
    "read_depth_map",
]

IGNORED = 255  # in all masks that are read, whatever the data set stores

_TURNED = {5, 6, 7, 8}  # EXIF orientations that exchange height and width

_DO = "restore the file from the data set"


@dataclass(frozen=True)
class DenseItem:
    """One image, where its truths are, and the unit that intervals resample."""

    key: str
    image: StoredFile
    labels: StoredFile | None = None
    depth: StoredFile | None = None
    unit: str = ""  # the key, or a block of neighboring frames


@dataclass(frozen=True, kw_only=True)
class DenseSet:
    """The items of a split, and how the stored numbers are to be read."""

    name: str
    items: Sequence[DenseItem]
    classes: Sequence[str] = ()  # of segmentation, by class
    # class of every number that masks may have, `IGNORED` for those that do not count
    class_of: Mapping[int, int] = field(default_factory=dict)
    objects: Sequence[int] = ()  # classes that are objects; empty: all but 0
    depth_scale: float = 1000.0  # stored steps per meter; the stored 0 is unknown
    max_depth: float = 10.0  # meters, of the protocol
    crop: str = "none"  # pixels that count, see `crop_mask`
    has_benchmark_crop: bool = False  # networks and scores see KITTI's 352 x 1216 pixels
    left_out: Mapping[str, int] = field(default_factory=dict)  # images without a truth, by reason

    def read_image(self, item: DenseItem, policy: DecodePolicy | None = None) -> NDArray[np.uint8]:
        """Return the image, RGB ``[H, W, 3]``.

        Raises
        ------
        UsageError
            If it does not decode.
        """
        return self._cropped(read_pixels(item.image, policy), item)

    def read_labels(self, item: DenseItem) -> NDArray[np.uint8]:
        """Return classes ``[H, W]``, `IGNORED` where nothing counts.

        Raises
        ------
        UsageError
            If the mask does not decode, is of another size than its image, or has a number that
            the data set does not define.
        """
        assert item.labels is not None, f"{self.name} has no masks"
        stored = read_labels(item.labels)
        check_size(stored.shape, _size_of(item.image), what="mask", where=str(item.labels))
        table = np.full(256, -1)
        table[list(self.class_of)] = list(self.class_of.values())
        labels = table[stored]
        if labels.size and labels.min() < 0:
            raise UsageError(
                what=f"label {int(stored[labels < 0].max())} is beyond the list of "
                f"{len(self.classes)} classes",
                where=str(item.labels),
                do=f"{self.name} has the labels {_ranges(self.class_of)}",
            )
        return self._cropped(labels.astype(np.uint8), item)

    def read_objects(self, item: DenseItem) -> NDArray[np.uint8]:
        """Return 1 where an object is, else 0, and `IGNORED` where nothing counts: ``[H, W]``.

        Raises
        ------
        UsageError
            As `read_labels`.
        """
        labels = self.read_labels(item)
        is_object = np.isin(labels, self.objects) if self.objects else labels > 0
        return np.where(labels == IGNORED, labels, is_object).astype(np.uint8)

    def read_depth(self, item: DenseItem) -> NDArray[np.float32]:
        """Return depths in meters, ``[H, W]``, 0 where unknown.

        Raises
        ------
        UsageError
            If the map does not decode, is no 16-bit gray, or is of another size than its image.
        """
        assert item.depth is not None, f"{self.name} has no depth"
        stored = read_depth_map(item.depth)
        check_size(stored.shape, _size_of(item.image), what="depth map", where=str(item.depth))
        return self._cropped((stored / self.depth_scale).astype(np.float32), item)

    def _cropped(self, pixels: NDArray[Any], item: DenseItem) -> NDArray[Any]:
        if not self.has_benchmark_crop:
            return pixels
        height, width = pixels.shape[:2]
        return pixels[kitti_benchmark_crop(height, width, str(item.image))]


def read_depth_map(file: StoredFile) -> NDArray[np.int64]:
    """Read a 16-bit gray PNG, ``[H, W]``, as stored.

    Raises
    ------
    UsageError
        If it does not decode, or its pixels are no 16-bit numbers.
    """
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            image.load()
            mode, depth = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        what = f"undecodable depth map: {first_line(error)}"
        raise UsageError(what=what, where=str(file), do=_DO) from error
    if not mode.startswith("I"):
        raise UsageError(
            what=f"depth map of mode {mode}, not 16-bit gray",
            where=str(file),
            do="give a PNG with 16 bits per pixel",
        )
    return depth.astype(np.int64)


def blocks_of_frames(keys: Sequence[str], *, size: int = 8) -> list[str]:
    """Name the block of every frame: ``size`` neighbors of one drive, in the order of their keys.

    The drive is the key up to its last ``_``. Neighboring frames show the same scene, so an
    interval over single frames would be too narrow.
    """
    counts: dict[str, int] = {}
    block_of = {}
    for key in sorted(keys):
        drive = key.rpartition("_")[0]
        block_of[key] = f"{drive}/{counts.get(drive, 0) // size}"
        counts[drive] = counts.get(drive, 0) + 1
    return [block_of[key] for key in keys]


def check_not_empty(items: Sequence[DenseItem], *, layout: str, where: Path | str) -> None:
    """Refuse a split without images.

    Raises
    ------
    UsageError
        With the folder or list that has none.
    """
    if not items:
        do = "give the root of the unpacked data set, complete"
        raise UsageError(what=f"no images of {layout}", where=str(where), do=do)


def _size_of(image: StoredFile) -> tuple[int, int]:
    """Read height and width of an upright image from its header."""
    try:
        with Image.open(io.BytesIO(image.read())) as opened:
            is_turned = read_orientation(opened) in _TURNED
            return opened.size if is_turned else (opened.height, opened.width)
    except (OSError, SyntaxError, ValueError) as error:
        what = f"undecodable image: {first_line(error)}"
        raise UsageError(what=what, where=str(image), do=_DO) from error


def _ranges(labels: Mapping[int, int]) -> str:
    """Write numbers as ranges: ``0 to 18, 255``."""
    parts: list[list[int]] = []
    for number in sorted(labels):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(" to ".join(map(str, part)) for part in parts)
