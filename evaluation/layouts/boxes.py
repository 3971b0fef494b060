"""Boxes of objects in images: PASCAL VOC 2007 and 2012, and COCO 20k.

Annotations are read at once, images later. A box is (left, top, right, bottom) in pixels; right and
bottom are the first ones outside.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError, first_line
from dinoforge.evaluation.layouts.stored import StoredFile, first_missing, read_json, read_lines

__all__ = ["BoxedImage", "open_coco20k", "open_voc_boxes"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoxedImage:
    """An image and the boxes of all its objects, float64 ``[n, 4]``, n at least 1."""

    name: str
    image: StoredFile
    boxes: NDArray[np.float64]


def open_voc_boxes(root: Path, *, year: int = 2007, subset: str = "trainval") -> list[BoxedImage]:
    """List PASCAL VOC; ``root`` is ``VOCdevkit``, the folder that has it, or ``VOC<year>``.

    All objects count, difficult and truncated ones as well, as in LOST and TokenCut. Annotated
    pixels are counted from 1 and inclusive: 1 is taken off left and top.

    Raises
    ------
    UsageError
        If the layout is another one (names the first missing file), or an annotation is damaged.
    """
    layout = f"PASCAL VOC {year}"
    folders = [root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}", root]
    folder = next((f for f in folders if (f / "ImageSets").is_dir()), folders[0])
    lines = read_lines(folder / "ImageSets" / "Main" / f"{subset}.txt", layout=layout)
    images = []
    for name in (line.split()[0] for line in lines):
        image, annotation = folder / f"JPEGImages/{name}.jpg", folder / f"Annotations/{name}.xml"
        first_missing([image, annotation], layout=layout)
        boxes = _voc_boxes(StoredFile(str(annotation)))
        images.append(BoxedImage(name, StoredFile(str(image)), boxes))
    return _with_boxes(images, layout)


def _voc_boxes(annotation: StoredFile) -> NDArray[np.float64]:
    try:
        tree = ElementTree.fromstring(annotation.read())  # noqa: S314 - a file that the user chose
        boxes = [
            [float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in tree.iterfind("object/bndbox")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise _damaged(annotation, error) from error
    return np.array(boxes, np.float64).reshape(-1, 4) - [1, 1, 0, 0]


def open_coco20k(root: Path, names: Path) -> list[BoxedImage]:
    """List the 19,817 images of COCO 2014 on which LOST and TokenCut report.

    ``root`` has ``train2014`` (or ``images/train2014``) and
    ``annotations/instances_train2014.json``, which takes about 2 GB to read; ``names`` is LOST's
    ``coco_20k_filenames.txt``. Boxes of crowds do not count; sides are rounded to pixels, as there.

    Raises
    ------
    UsageError
        If the layout is another one (names the first missing file), or an annotation is damaged.
    """
    layout = "COCO 20k"
    lines = [Path(line).name for line in read_lines(names, layout=layout)]
    folder = root / "images" / "train2014"
    folder = folder if folder.is_dir() else root / "train2014"
    first_missing((folder / line for line in lines), layout=layout)
    boxes = _coco_boxes(root / "annotations" / "instances_train2014.json", lines, layout)
    images = [
        BoxedImage(Path(line).stem, StoredFile(str(folder / line)), np.array(boxes[line]))
        for line in lines
    ]
    return _with_boxes(images, layout)


def _coco_boxes(file: Path, names: Sequence[str], layout: str) -> dict[str, list[list[float]]]:
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    content = read_json(file, layout=layout)
    try:
        wanted = set(names)
        name_of = {i["id"]: i["file_name"] for i in content["images"] if i["file_name"] in wanted}
        if len(name_of) < len(wanted):
            unknown = sorted(wanted - set(name_of.values()))
            raise UsageError(
                what=f"no entry for {len(unknown)} listed images ({unknown[0]}, ...)",
                where=str(file),
                do="give the annotations of COCO 2014 train",
            )
        for entry in content["annotations"]:
            if entry["image_id"] in name_of and not entry["iscrowd"]:
                left, top, width, height = entry["bbox"]
                sides = [left, top, left + width, top + height]
                boxes[name_of[entry["image_id"]]].append([float(round(side)) for side in sides])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error
    return boxes


def _with_boxes(images: list[BoxedImage], layout: str) -> list[BoxedImage]:
    boxed = [image for image in images if len(image.boxes)]
    if len(boxed) < len(images):
        without = len(images) - len(boxed)
        _log.info("%d of %d images of %s have no box: left out", without, len(images), layout)
    return boxed


def _damaged(file: Path | StoredFile, error: Exception) -> UsageError:
    what = f"annotation unreadable: {first_line(error)}"
    return UsageError(what=what, where=str(file), do="restore the file from the data set")
