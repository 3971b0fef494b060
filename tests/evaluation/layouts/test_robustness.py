"""ImageNet and the sets that test its classifiers: classes, sets of labels, what competes."""

import json
import re

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts import classified, robustness
from dinoforge.evaluation.metrics.classification import any_match, select_classes, top_classes

CLASSES = ("n01", "n02", "n03", "n04")


def keys(result):
    return result.images.table.column("key").to_pylist()


def write_folders(draw, root, counts):
    for name, count in counts.items():
        draw(root / name, *(f"{name}_{number}.JPEG" for number in range(count)))
    return root


def test_class_folders_are_numbered_by_the_list(tmp_path, draw):
    write_folders(draw, tmp_path / "val", {"n03": 1, "n01": 2, "n02": 1, "n04": 1})
    result = robustness.read_imagenet(tmp_path, "val", CLASSES)
    assert keys(result) == ["n01/n01_0", "n01/n01_1", "n02/n02_0", "n03/n03_0", "n04/n04_0"]
    assert result.labels.tolist() == [0, 0, 1, 2, 3]
    assert (result.kept, result.truths, dict(result.left_out)) == (None, None, {})
    assert result.images.decode(0).shape[2] == 3


def test_a_flat_val_has_the_classes_of_its_solution(tmp_path, draw):
    draw(tmp_path / "val", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
    lines = [
        "ImageId,PredictionString",
        "ILSVRC2012_val_00000002,n02 1 2 3 4 n02 5 6 7 8",
        "ILSVRC2012_val_00000001,n04 1 2 3 4",
    ]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines))
    result = robustness.read_imagenet(tmp_path, "val", CLASSES)
    assert keys(result) == ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"]
    assert result.labels.tolist() == [3, 1]
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").unlink()
    with pytest.raises(UsageError, match=r"missing file of ImageNet - .*val_00000001.JPEG - "):
        robustness.read_imagenet(tmp_path, "val", CLASSES)


def test_a_missing_class_folder_is_named(tmp_path, draw):
    write_folders(draw, tmp_path / "sketch", {"n01": 1, "n02": 1, "n04": 1})
    missing = re.escape(str(tmp_path / "sketch/n03"))
    with pytest.raises(UsageError, match=f"^missing file of ImageNet-Sketch - {missing} - "):
        robustness.read_wordnet_folders(tmp_path / "sketch", CLASSES, layout="ImageNet-Sketch")


def test_a_folder_of_no_class_is_named(tmp_path, draw):
    write_folders(draw, tmp_path / "r", {"n01": 1, "n99": 1})
    with pytest.raises(UsageError, match="`n99` is none of the 4 classes"):
        robustness.read_wordnet_folders(tmp_path / "r", CLASSES, layout="ImageNet-R", count=2)


def test_of_a_set_with_some_classes_only_these_compete(tmp_path, draw):
    write_folders(draw, tmp_path / "a", {"n02": 2, "n04": 1})
    result = robustness.read_wordnet_folders(tmp_path / "a", CLASSES, layout="ImageNet-A", count=2)
    assert result.kept == (1, 3)
    scores = np.array([[9.0, 2.0, 9.0, 1.0], [9.0, 1.0, 9.0, 2.0], [9.0, 1.0, 9.0, 2.0]])
    named = np.array(result.kept)[top_classes(select_classes(scores, result.kept), 1)]
    assert any_match(named, result.labels[:, None]).tolist() == [True, False, True]
    with pytest.raises(UsageError, match="2 of 200 class folders of ImageNet-A"):
        robustness.read_wordnet_folders(tmp_path / "a", CLASSES, layout="ImageNet-A", count=200)


def test_folders_of_v2_are_numbers_and_not_texts(tmp_path, draw):
    classes = tuple(f"n{number:02d}" for number in range(12))
    write_folders(draw, tmp_path, {str(number): 1 for number in range(12)})
    result = robustness.read_imagenet_v2(tmp_path, classes)
    assert [int(key.partition("/")[0]) for key in keys(result)] == list(range(12))
    assert result.labels.tolist() == list(range(12))
    (tmp_path / "2/2_0.JPEG").unlink()
    (tmp_path / "2").rmdir()
    with pytest.raises(UsageError, match=re.escape(f"ImageNet-V2 - {tmp_path / '2'} - ")):
        robustness.read_imagenet_v2(tmp_path, classes)


@pytest.mark.parametrize("group", ["", "weather"])
def test_corruptions_lie_in_the_root_or_in_the_folder_of_their_tar(tmp_path, draw, group):
    every = dict.fromkeys(CLASSES, 1)
    write_folders(draw, tmp_path / group / "fog/4", every)
    result = robustness.read_corruption(tmp_path, "fog", 4, CLASSES)
    assert result.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match=r"ImageNet-C - .*fog/5 - "):
        robustness.read_corruption(tmp_path, "fog", 5, CLASSES)


def test_label_sets_follow_the_numbers_of_the_images(tmp_path, draw):
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (3, 1, 2)]
    for name, folder in zip(names, CLASSES, strict=False):
        draw(tmp_path / "val" / folder, name)
    draw(tmp_path / "val/n04", "ILSVRC2012_val_00000004.JPEG")
    (tmp_path / "real.json").write_text(json.dumps([[2], [], [0, 3], [1]]))
    val = robustness.read_imagenet(tmp_path, "val", CLASSES)
    result = robustness.with_real_labels(val, tmp_path / "real.json")
    assert result.truths == ((0, 3), (2,), (), (1,))
    assert result.left_out == {"no label": 1}
    grading = classified.Tested(result).grading(10)
    assert grading.rows.tolist() == [10, 11, 13]
    assert any_match(np.array([3, 2, 2]), grading.truths).tolist() == [True, True, False]
    (tmp_path / "real.json").write_text("[[2]]")
    with pytest.raises(UsageError, match="no label set for the image n01/ILSVRC2012_val_00000003"):
        robustness.with_real_labels(val, tmp_path / "real.json")


def write_objectnet(root, draw):
    draw(root / "images/chair_dir", "a.png", "b.png")
    draw(root / "images/pen", "c.png")
    draw(root / "images/spoon", "d.png")
    mappings = root / "mappings"
    mappings.mkdir()
    texts = {
        "folder_to_objectnet_label.json": {"chair_dir": "Chair", "pen": "Pen", "spoon": "Spoon"},
        "objectnet_to_imagenet_1k.json": {"Chair": "barber chair; rocker", "Pen": "pen, Biro"},
        "pytorch_to_imagenet_2012_id.json": {"0": 2, "1": 0, "2": 3, "3": 1},
    }
    for name, value in texts.items():
        (mappings / name).write_text(json.dumps(value))
    lines = ["rocker", "pen, Biro", "barber chair", "tench"]  # in the order of 2012's ids
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines))
    return root


def test_any_imagenet_class_of_an_object_is_right(tmp_path, draw):
    result = robustness.read_objectnet(write_objectnet(tmp_path, draw), CLASSES)
    assert keys(result) == ["chair_dir/a", "chair_dir/b", "pen/c"]
    assert result.truths == ((0, 1), (0, 1), (3,))
    assert result.left_out == {"no ImageNet class": 1}


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("mappings/folder_to_objectnet_label.json", "missing file of ObjectNet - .*folder_to_"),
        ("mappings/imagenet_to_label_2012_v2", "missing file of ObjectNet - .*label_2012_v2"),
    ],
)
def test_a_missing_mapping_of_objectnet(tmp_path, draw, missing, text):
    write_objectnet(tmp_path, draw)
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=text):
        robustness.read_objectnet(tmp_path, CLASSES)


def test_a_name_without_a_class_in_the_mapping_of_objectnet(tmp_path, draw):
    write_objectnet(tmp_path, draw)
    (tmp_path / "mappings/imagenet_to_label_2012_v2").write_text("rocker\nx\nbarber chair\ntench")
    with pytest.raises(UsageError, match="ObjectNet's `Pen`: no entry for `pen, Biro`"):
        robustness.read_objectnet(tmp_path, CLASSES)


def test_there_are_a_thousand_classes_in_order(tmp_path):
    names = [f"n{number:08d}" for number in range(1000)]
    (tmp_path / "classes.txt").write_text("".join(f"{name} some words\n" for name in names))
    assert robustness.imagenet_classes(tmp_path) == tuple(names)
    (tmp_path / "classes.txt").unlink()
    for name in names[1:]:
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="999 classes of ImageNet"):
        robustness.imagenet_classes(tmp_path)
    (tmp_path / "train" / names[0]).mkdir()
    assert robustness.imagenet_classes(tmp_path) == tuple(names)
