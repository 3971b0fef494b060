"""Published layouts of segmentation sets, made small; the first missing file is named."""

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.segmentation import (
    CITYSCAPES_CLASSES,
    open_ade20k,
    open_camvid,
    open_cityscapes,
    open_nyu_segmentation,
    open_voc,
)


@pytest.fixture
def write(tmp_path):
    """Write a picture, or a mask of some labels, below the root."""

    def save(path, labels=None):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((1, 4, 3)) if labels is None else np.array([labels])
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        return file

    return save


def first(data):
    return data.read_labels(data.items[0])[0].tolist()


def test_ade20k(tmp_path, write):
    for number in (1, 2):
        write(f"images/validation/ADE_val_0000000{number}.jpg")
        write(f"annotations/validation/ADE_val_0000000{number}.png", [0, 1, 150, number])
    data = open_ade20k(tmp_path, "validation")
    assert [item.key for item in data.items] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert (len(data.classes), data.classes[0]) == (150, "1")
    assert first(data) == [255, 0, 149, 0]
    rows = [f"{k}\t0.1\t9\t9\tthing {k}, stuff" for k in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert open_ade20k(tmp_path, "validation").classes[149] == "thing 150, stuff"


def test_voc_and_the_masks_of_sbd(tmp_path, write):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000033\n")
    pair = "/JPEGImages/2008_000002.jpg /SegmentationClassAug/2008_000002.png\n"
    (lists / "trainaug.txt").write_text(pair)
    for key, folder in (("2007_000033", ""), ("2008_000002", "Aug")):
        write(f"JPEGImages/{key}.jpg")
        write(f"SegmentationClass{folder}/{key}.png", [0, 20, 255, 1])
    for split in ("val", "trainaug"):
        data = open_voc(tmp_path, split)
        assert first(data) == [0, 20, 255, 1]
        assert (len(data.items), len(data.classes), data.classes[20]) == (1, 21, "tvmonitor")


def test_cityscapes_trains_on_19_of_its_labels(tmp_path, write):
    write("leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png")
    write("gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png", [7, 33, 4, 0])
    data = open_cityscapes(tmp_path, "val")
    assert first(data) == [0, 18, 255, 255]
    assert data.items[0].key == "ulm_000001_000019"
    assert (len(CITYSCAPES_CLASSES), CITYSCAPES_CLASSES[18]) == (19, "bicycle")


def test_camvid_in_folders(tmp_path, write):
    for number in range(9):
        write(f"test/Seq05VD_f{number:05d}.png")
        write(f"testannot/Seq05VD_f{number:05d}.png", [0, 10, 11, 5])
    data = open_camvid(tmp_path, "test")
    assert first(data) == [0, 10, 255, 5]
    assert [item.unit for item in data.items] == ["Seq05VD/0"] * 8 + ["Seq05VD/1"]


@pytest.mark.parametrize("line", ["5", "RGB/5.png", "RGB/5.png Label/5.png"])
def test_nyu_with_40_classes(tmp_path, write, line):
    write("RGB/5.png")
    write("Label/5.png", [0, 1, 40, 2])
    (tmp_path / "test.txt").write_text(line + "\n")
    data = open_nyu_segmentation(tmp_path, "test")
    assert first(data) == [255, 0, 39, 1]
    assert (data.classes[0], data.classes[39]) == ("wall", "otherprop")


@pytest.mark.parametrize(
    ("opener", "split", "made", "missing"),
    [
        (open_ade20k, "training", [], "images/training"),
        (
            open_ade20k,
            "training",
            ["images/training/a.jpg", "annotations/training/b.png"],
            "annotations/training/a.png",
        ),
        (open_voc, "val", [], "ImageSets/Segmentation/val.txt"),
        (
            open_cityscapes,
            "val",
            ["leftImg8bit/val/ulm/a_leftImg8bit.png", "gtFine/val/x.png"],
            "gtFine/val/ulm/a_gtFine_labelIds.png",
        ),
        (open_camvid, "train", ["train/a.png"], "trainannot"),
        (open_nyu_segmentation, "train", [], "train.txt"),
    ],
)
def test_the_first_missing_file_is_named(tmp_path, write, opener, split, made, missing):
    for path in made:
        write(path)
    with pytest.raises(UsageError, match="missing file of") as error:
        opener(tmp_path, split)
    assert error.value.faults[0].where == str(tmp_path / missing)


def test_an_empty_split_is_refused(tmp_path):
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UsageError, match="no images of ADE20K"):
        open_ade20k(tmp_path, "validation")
