"""Fine-grained sets: each written as its archive unpacks, read, and read with a file missing."""

import re

import numpy as np
import pytest
from scipy.io import savemat

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts import fine_grained
from dinoforge.evaluation.layouts.fine_grained import FINE_GRAINED, VOC_CLASSES, read_fine_grained


def names(count):
    return [f"class_{number:03d}" for number in range(count)]


def write(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def food(root, draw):
    write(root / "meta/classes.txt", names(101))
    for split, lines in {"train": ["class_100/7", "class_000/8"], "test": ["class_001/9"]}.items():
        write(root / f"meta/{split}.txt", lines)
        for line in lines:
            draw(root / "images", f"{line}.jpg")
    return {"train": [100, 0], "test": [1]}, "meta/test.txt"


def sun(root, draw):
    write(root / "Partitions/ClassName.txt", [f"/a/{name}" for name in names(397)])
    for part, lines in {"Training_01": ["/a/class_396/sun_x.jpg"], "Testing_01": []}.items():
        write(root / f"Partitions/{part}.txt", lines or ["/a/class_002/sun_y.jpg"])
    draw(root / "SUN397/a/class_396", "sun_x.jpg")
    draw(root / "SUN397/a/class_002", "sun_y.jpg")
    return {"train": [396], "test": [2]}, "SUN397/a/class_002/sun_y.jpg"


def cars(root, draw):
    (root / "devkit").mkdir()
    kinds = [("class", object), ("fname", object)]
    rows = np.array([(196, "00001.jpg"), (1, "00002.jpg")], kinds)
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": rows[::-1]})
    class_names = np.array(names(196), object)
    savemat(root / "devkit/cars_meta.mat", {"class_names": class_names})
    for split in ("train", "test"):
        draw(root / f"cars_{split}", "00001.jpg", "00002.jpg")
    return {"train": [195, 0], "test": [0, 195]}, "cars_test_annos_withlabels.mat"


def aircraft(root, draw):
    write(root / "data/variants.txt", [*names(99), "Cessna 172"])
    for split, label in (("train", "class_000"), ("val", "Cessna 172"), ("test", "class_098")):
        write(root / f"data/images_variant_{split}.txt", [f"{split} {label}"])
        draw(root / "data/images", f"{split}.jpg")
    return {"train": [0], "val": [99], "test": [98]}, "data/images/test.jpg"


def textures(root, draw):
    for name in names(47):
        (root / "images" / name).mkdir(parents=True)
    for split, number in (("train", 3), ("val", 46), ("test", 0)):
        name = f"class_{number:03d}"
        write(root / f"labels/{split}1.txt", [f"{name}/{split}.jpg"])
        draw(root / "images" / name, f"{split}.jpg")
    return {"train": [3], "val": [46], "test": [0]}, "labels/test1.txt"


def pets(root, draw):
    lines = [f"{name}_7 {number + 1} 1 1" for number, name in enumerate(names(37))]
    write(root / "annotations/trainval.txt", lines)
    write(root / "annotations/test.txt", ["class_036_9 37 2 1"])
    draw(root / "images", *(f"{name}_7.jpg" for name in names(37)), "class_036_9.jpg")
    return {"train": list(range(37)), "test": [36]}, "images/class_036_9.jpg"


def flowers(root, draw):
    savemat(root / "setid.mat", {"trnid": [2], "valid": [1, 3], "tstid": [4]})
    savemat(root / "imagelabels.mat", {"labels": [102, 1, 7, 50]})
    draw(root / "jpg", *(f"image_{number:05d}.jpg" for number in range(1, 5)))
    return {"train": [0], "val": [101, 6], "test": [49]}, "jpg/image_00004.jpg"


def birds(root, draw):
    write(root / "classes.txt", [f"{n + 1} {name}" for n, name in enumerate(names(200))])
    write(root / "images.txt", ["1 class_199/a.jpg", "2 class_000/b.jpg"])
    write(root / "image_class_labels.txt", ["1 200", "2 1"])
    write(root / "train_test_split.txt", ["1 0", "2 1"])
    draw(root / "images/class_199", "a.jpg")
    draw(root / "images/class_000", "b.jpg")
    return {"train": [0], "test": [199]}, "images/class_199/a.jpg"


MADE = {
    "food101": food,
    "sun397": sun,
    "cars": cars,
    "aircraft": aircraft,
    "dtd": textures,
    "pets": pets,
    "flowers102": flowers,
    "cub200": birds,
}


@pytest.mark.parametrize("name", MADE)
def test_images_and_classes_of_every_split(tmp_path, draw, name):
    truth, missing = MADE[name](tmp_path, draw)
    assert tuple(truth) == FINE_GRAINED[name].splits
    for split, labels in truth.items():
        result = read_fine_grained(name, tmp_path, split)
        assert result.labels.tolist() == labels
        assert len(result.images) == len(labels)
        assert len(result.classes) == FINE_GRAINED[name].classes
        result.images.decode(len(labels) - 1)
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=f"^missing file of .* - {re.escape(str(tmp_path))}"):
        read_fine_grained(name, tmp_path, "test")


def test_caltech_is_split_by_keyed_draws(tmp_path, draw, monkeypatch):
    monkeypatch.setattr(fine_grained, "_CALTECH_TRAIN", 2)
    for name in names(102):
        draw(tmp_path / "101_ObjectCategories" / name, *(f"image_{n:04d}.jpg" for n in range(3)))
    train, test = (read_fine_grained("caltech101", tmp_path, s) for s in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [2] * 102
    assert np.bincount(test.labels).tolist() == [1] * 102
    of_both = [set(part.images.table.column("key").to_pylist()) for part in (train, test)]
    assert not of_both[0] & of_both[1]


def test_voc_has_several_classes_per_image_and_difficult_ones(tmp_path, draw):
    for name in VOC_CLASSES:
        values = {"cat": ("1", "-1"), "dog": ("0", "1")}.get(name, ("-1", "-1"))
        lines = [f"00000{number} {value:>2}" for number, value in enumerate(values)]
        write(tmp_path / f"ImageSets/Main/{name}_test.txt", lines)
    draw(tmp_path / "JPEGImages", "000000.jpg", "000001.jpg")
    result = read_fine_grained("voc2007", tmp_path, "test")
    assert result.labels.tolist() == [-1, -1]
    columns = [VOC_CLASSES.index(name) for name in ("cat", "dog", "bird")]
    assert result.targets[:, columns].tolist() == [[1, -1, 0], [0, 1, 0]]
    write(tmp_path / "ImageSets/Main/sofa_test.txt", ["000000 -1"])
    with pytest.raises(UsageError, match="1 lines for sofa, 2 for aeroplane"):
        read_fine_grained("voc2007", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "split", "text"),
    [
        ("cifar10", "test", "no layout for cifar10, test .* choose from food101, sun397"),
        ("birds", "test", "no layout for birds"),
        ("dtd", "trainval", "choose from train, val, test"),
    ],
)
def test_what_has_no_layout(tmp_path, name, split, text):
    with pytest.raises(UsageError, match=text):
        read_fine_grained(name, tmp_path, split)


def test_lists_with_another_number_of_classes(tmp_path, draw):
    food(tmp_path, draw)
    write(tmp_path / "meta/classes.txt", names(102))
    with pytest.raises(UsageError, match="102 classes of food101, or labels beyond them; need 101"):
        read_fine_grained("food101", tmp_path, "train")
    write(tmp_path / "meta/classes.txt", names(5))
    with pytest.raises(UsageError, match="`class_100` is none of the 5 classes"):
        read_fine_grained("food101", tmp_path, "train")


def test_twelve_sets_with_a_source():
    assert len(FINE_GRAINED) == 12
    assert all(facts.source and facts.splits[-1] == "test" for facts in FINE_GRAINED.values())
