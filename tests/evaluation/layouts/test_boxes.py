"""Boxes of VOC and COCO 20k: what is read, and what is refused in one line."""

import json

import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.boxes import open_coco20k, open_voc_boxes

OBJECT = """<object><name>cat</name><difficult>1</difficult><bndbox>
<ymin>2</ymin><xmin>1</xmin><xmax>30</xmax><ymax>40.5</ymax></bndbox></object>"""


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2007"
    write(folder / "ImageSets/Main/trainval.txt", "000005\n000007\n000009\n")
    for name, objects in (("000005", 2), ("000007", 1), ("000009", 0)):
        write(folder / f"JPEGImages/{name}.jpg")
        write(folder / f"Annotations/{name}.xml", f"<annotation>{OBJECT * objects}</annotation>")
    return tmp_path


@pytest.mark.parametrize("root", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_boxes_of_voc_count_pixels_from_1(voc, root, caplog):
    caplog.set_level("INFO")
    images = open_voc_boxes(voc / root)
    assert [image.name for image in images] == ["000005", "000007"]
    assert images[0].boxes.tolist() == [[0, 1, 30, 40.5]] * 2
    assert images[0].image.path.endswith("JPEGImages/000005.jpg")
    assert "1 of 3 images of PASCAL VOC 2007 have no box: left out" in caplog.text


@pytest.mark.parametrize(
    "missing", ["ImageSets/Main/trainval.txt", "JPEGImages/000007.jpg", "Annotations/000005.xml"]
)
def test_the_first_missing_file_of_voc_is_named(voc, missing):
    (voc / "VOCdevkit/VOC2007" / missing).unlink()
    with pytest.raises(UsageError, match=f"missing file of PASCAL VOC 2007 - .*/{missing} - give"):
        open_voc_boxes(voc)


@pytest.mark.parametrize(
    "text", ["<annotation>", OBJECT.replace("30", "wide"), OBJECT.replace("ymax", "y")]
)
def test_a_damaged_annotation_is_named(voc, text):
    write(voc / "VOCdevkit/VOC2007/Annotations/000007.xml", f"<annotation>{text}</annotation>")
    with pytest.raises(UsageError, match=r"annotation unreadable: .* - .*000007.xml - restore"):
        open_voc_boxes(voc)


@pytest.fixture
def coco(tmp_path):
    names = [f"COCO_train2014_00000000000{n}.jpg" for n in (9, 3, 5)]
    write(tmp_path / "names.txt", "\n".join(["train2014/" + names[0], *names[1:]]))
    for name in names:
        write(tmp_path / "train2014" / name)
    entries = [
        {"image_id": 9, "iscrowd": 0, "bbox": [1.4, 2.6, 10, 20]},
        {"image_id": 3, "iscrowd": 1, "bbox": [0, 0, 5, 5]},
        {"image_id": 5, "iscrowd": 0, "bbox": [0, 0, 5, 5]},
        {"image_id": 5, "iscrowd": 0, "bbox": [3, 3, 1, 1]},
        {"image_id": 8, "iscrowd": 0, "bbox": [0, 0, 1, 1]},
    ]
    images = [{"id": n, "file_name": f"COCO_train2014_00000000000{n}.jpg"} for n in (3, 5, 8, 9)]
    content = {"images": images, "annotations": entries}
    write(tmp_path / "annotations/instances_train2014.json", json.dumps(content))
    return tmp_path


def test_boxes_of_coco_without_crowds(coco):
    images = open_coco20k(coco, coco / "names.txt")
    assert [image.name[-2:] for image in images] == ["09", "05"]
    assert images[0].boxes.tolist() == [[1, 3, 11, 23]]
    assert images[1].boxes.tolist() == [[0, 0, 5, 5], [3, 3, 4, 4]]
    (coco / "train2014").rename(coco / "moved")
    (coco / "images").mkdir()
    (coco / "moved").rename(coco / "images/train2014")
    assert len(open_coco20k(coco, coco / "names.txt")) == 2


def test_what_is_wrong_with_coco_is_named(coco):
    file = coco / "annotations/instances_train2014.json"
    content = json.loads(file.read_text())
    content["images"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"no entry for 1 listed images \(COCO_.*9.jpg, ...\)"):
        open_coco20k(coco, coco / "names.txt")
    file.write_text("{")
    with pytest.raises(UsageError, match=r"not JSON: .*train2014.json - restore"):
        open_coco20k(coco, coco / "names.txt")
    file.write_text("{}")
    with pytest.raises(UsageError, match=r"annotation unreadable: 'images' - .*json - restore"):
        open_coco20k(coco, coco / "names.txt")
    for missing in (file, coco / "train2014/COCO_train2014_000000000003.jpg", coco / "names.txt"):
        missing.unlink()
        with pytest.raises(UsageError, match=f"missing file of COCO 20k - {missing} - give"):
            open_coco20k(coco, coco / "names.txt")
