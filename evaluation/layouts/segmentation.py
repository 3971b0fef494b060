"""Published layouts of segmentation sets: ADE20K, Pascal VOC 2012, Cityscapes, CamVid, NYUv2.

Each lists a split by the names of its files and checks that every mask is there.
"""

from pathlib import Path

from dinoforge.evaluation.layouts.dense import (
    IGNORED,
    DenseItem,
    DenseSet,
    blocks_of_frames,
    check_not_empty,
)
from dinoforge.evaluation.layouts.stored import StoredFile, first_missing, read_lines

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_OBJECTS",
    "CITYSCAPES_CLASSES",
    "NYU_CLASSES",
    "VOC_CLASSES",
    "open_ade20k",
    "open_camvid",
    "open_cityscapes",
    "open_nyu_segmentation",
    "open_voc",
]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


VOC_CLASSES = _names(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
CAMVID_CLASSES = _names(
    "sky, building, pole, road, pavement, tree, sign_symbol, fence, car, pedestrian, bicyclist"
)
CAMVID_OBJECTS = (8, 9, 10)  # what moves: cars, pedestrians, cyclists
# Name and number in labelIds of the 19 classes that are evaluated.
_CITYSCAPES = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17},
    **{"traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23},
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31},
    **{"motorcycle": 32, "bicycle": 33},
}
CITYSCAPES_CLASSES = tuple(_CITYSCAPES)
NYU_CLASSES = _names(
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, "
    "blinds, desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, "
    "refrigerator, television, paper, towel, shower curtain, box, whiteboard, person, night stand, "
    "toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture, otherprop"
)

_VOID = {IGNORED: IGNORED}


def open_ade20k(root: Path, split: str) -> DenseSet:
    """List ADE20K (Zhou et al. 2017), 150 classes; ``split`` is ``training`` or ``validation``.

    ``root`` is ``ADEChallengeData2016``. The stored 0 does not count, k is class k - 1. Names come
    from ``objectInfo150.txt``, else classes are numbers.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    pairs = _pairs(root / "images" / split, ".jpg", root / "annotations" / split, "ADE20K")
    names = tuple(str(number) for number in range(1, 151))
    if (root / "objectInfo150.txt").exists():
        rows = read_lines(root / "objectInfo150.txt", layout="ADE20K")[1:]
        names = tuple(row.rpartition("\t")[2].strip() for row in rows)
    return DenseSet(
        name="ade20k",
        items=pairs,
        classes=names,
        class_of={k: k - 1 for k in range(1, 151)} | {0: IGNORED} | _VOID,
    )


def open_voc(root: Path, split: str, *, year: int = 2012) -> DenseSet:
    """List Pascal VOC, 21 classes: ``train``, ``val``, ``trainval`` or (2012) ``trainaug``.

    ``root`` is ``VOCdevkit/VOC2012``, or that of 2007. ``trainaug`` are the 10,582 images with the
    masks of SBD (Hariharan et al. 2011) in ``SegmentationClassAug``. Lines of the lists are keys,
    or pairs of paths.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    layout, listed = f"VOC {year}", root / "ImageSets" / "Segmentation" / f"{split}.txt"
    keys = [Path(line.split()[0]).stem for line in read_lines(listed, layout=layout)]
    masks = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
    items = [_item(key, root / "JPEGImages" / f"{key}.jpg", masks / f"{key}.png") for key in keys]
    _check_files(items, layout)
    class_of = {k: k for k in range(21)} | _VOID
    return DenseSet(name=f"voc{year % 100:02}", items=items, classes=VOC_CLASSES, class_of=class_of)


def open_cityscapes(root: Path, split: str) -> DenseSet:
    """List Cityscapes (Cordts et al. 2016), fine annotations, the 19 classes of the benchmark.

    ``root`` has ``leftImg8bit`` and ``gtFine`` with ``labelIds``; ``split`` is ``train`` or
    ``val``. The other numbers do not count.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    first_missing([images, masks], layout="Cityscapes")
    items = []
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        key = image.name.removesuffix("_leftImg8bit.png")
        mask = masks / image.parent.name / f"{key}_gtFine_labelIds.png"
        items.append(_item(key, image, mask))
    check_not_empty(items, layout="Cityscapes", where=images)
    _check_files(items, "Cityscapes")
    classes = {number: k for k, number in enumerate(_CITYSCAPES.values())}
    return DenseSet(
        name="cityscapes",
        items=items,
        classes=CITYSCAPES_CLASSES,
        class_of=dict.fromkeys(range(34), IGNORED) | _VOID | classes,
    )


def open_camvid(root: Path, split: str) -> DenseSet:
    """List CamVid as in the tutorial of SegNet, 11 classes: ``train``, ``val`` or ``test``.

    ``root`` has ``train`` and ``trainannot``, and so on; 11 does not count. Intervals resample
    blocks of 8 neighboring frames.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    items = _pairs(root / split, ".png", root / f"{split}annot", "CamVid")
    units = blocks_of_frames([item.key for item in items])
    return DenseSet(
        name="camvid",
        items=[
            DenseItem(item.key, item.image, item.labels, unit=unit)
            for item, unit in zip(items, units, strict=True)
        ],
        classes=CAMVID_CLASSES,
        objects=CAMVID_OBJECTS,
        class_of={k: k for k in range(11)} | {11: IGNORED} | _VOID,
    )


def open_nyu_segmentation(root: Path, split: str) -> DenseSet:
    """List NYU Depth v2 with the 40 classes of Gupta et al. 2013: ``train`` or ``test``.

    ``root`` has ``RGB``, ``Label`` and lists ``train.txt`` and ``test.txt`` of keys or paths. The
    stored 0 does not count, k is class k - 1.

    Raises
    ------
    UsageError
        That names the first missing file.
    """
    items = []
    for line in read_lines(root / f"{split}.txt", layout="NYUv2"):
        key = Path(line.split()[0]).stem
        image = root / "RGB" / f"{key}.jpg"
        if not image.exists() and image.with_suffix(".png").exists():
            image = image.with_suffix(".png")
        items.append(_item(key, image, root / "Label" / f"{key}.png"))
    _check_files(items, "NYUv2")
    return DenseSet(
        name="nyu40",
        items=items,
        classes=NYU_CLASSES,
        class_of={k: k - 1 for k in range(1, 41)} | {0: IGNORED} | _VOID,
    )


def _pairs(images: Path, suffix: str, masks: Path, layout: str) -> list[DenseItem]:
    first_missing([images, masks], layout=layout)
    items = [
        _item(image.stem, image, masks / f"{image.stem}.png")
        for image in sorted(images.glob(f"*{suffix}"))
    ]
    check_not_empty(items, layout=layout, where=images)
    _check_files(items, layout)
    return items


def _item(key: str, image: Path, mask: Path) -> DenseItem:
    return DenseItem(key, StoredFile(str(image)), StoredFile(str(mask)), unit=key)


def _check_files(items: list[DenseItem], layout: str) -> None:
    stored = (file for item in items for file in (item.image, item.labels) if file is not None)
    first_missing([Path(file.path) for file in stored], layout=layout)
