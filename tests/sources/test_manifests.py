"""Lists of files as sources."""

import json

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.sources.discover import discover_files
from dinoforge.sources.image_set import open_images
from dinoforge.sources.manifests import read_subset


@pytest.fixture
def folder(tmp_path):
    """Four pictures, one of them outside the folder of the lists."""
    for at, name in enumerate(("in/cats/a.png", "in/b.png", "in/c.png", "out/d.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), at, np.uint8)).save(path)
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_images_of_a_list_in_its_order_with_its_labels(folder, name):
    rows = [("c.png", "dog"), (str(folder.parent / "out/d.png"), ""), ("cats/a.png", "3")]
    if name == "list.csv":
        lines = ["path,label", *(",".join(row) for row in rows)]
    else:
        keys = ("file_name", "label")
        lines = [json.dumps(dict(zip(keys, (p, t or None), strict=True))) for p, t in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    images = open_images([str(folder / name)], cache=folder / "cache")
    assert [int(images.decode(at)[0, 0, 0]) for at in range(len(images))] == [2, 3, 0]
    table = images.table.to_pydict()
    assert table["key"] == ["c", "d", "cats/a"]
    assert table["class_name"] == ["dog", "", ""]
    assert table["class_space"] == ["names", "", "numbers"]


def test_a_list_without_labels_leaves_class_folders_and_counts_what_is_missing(folder):
    (folder / "list.csv").write_text("path\ncats/a.png\nb.png\nb.png\ngone.png\nlist.csv\n")
    files = discover_files([str(folder / "list.csv")])
    assert [entry["reason"] for entry in files.problems] == [
        "unreadable",
        "other_file",
        "same_file",
    ]
    images = open_images([str(folder / "list.csv")], cache=folder / "cache")
    assert images.table.column("class_name").to_pylist() == ["cats", ""]


def test_a_changed_label_changes_the_fingerprint(folder):
    prints = []
    for label in ("x", "y"):
        (folder / "list.csv").write_text(f"path,label\nb.png,{label}\n")
        prints.append(discover_files([str(folder / "list.csv")]).fingerprint())
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("list.csv", "url,label\nb.png,1\n", "no path in line 2, which has url, label"),
        ("list.csv", "path,label\nb.png,1,2\n", "line 2: more values than columns"),
        ("list.jsonl", '{"path": "b.png"}\n{"path"', "line 2 is not JSON"),
        ("list.jsonl", "[1]\n", "line 1 is not an object"),
        ("list.jsonl", '{"path": 3}\n', "no path in line 1"),
        ("list.csv", "path\n\xff", "UTF-8"),
        ("list.csv", "", "no images and no tars"),
    ],
)
def test_a_damaged_list_is_one_line(folder, name, content, what):
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=what):
        discover_files([str(folder / name)])


KEYS = ["a/n01_0", "a/n01_1", "b/n02_0", "b/n02_1", "b/same", "a/same"]


@pytest.mark.parametrize(
    ("lines", "positions"),
    [
        (["n01_1.JPEG", "n02_0.JPEG"], [1, 2]),  # lists of PAWS and MSN for ImageNet
        (["n02/n02_1.JPEG", "b/same", "n01_0"], [3, 4, 0]),
        (["5", "0", "", "3"], [5, 0, 3]),  # lists of PAWS for CIFAR-10
    ],
)
def test_a_list_names_images(tmp_path, lines, positions):
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    assert read_subset(tmp_path / "list.txt", KEYS) == positions


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("n01_0.JPEG\nn01_7.JPEG\n", r"1 of 2 lines name no image, or several, .* n01_7.JPEG"),
        ("same\n", "1 of 1 lines"),
        ("1\n6\n", "the first: 6"),
        ("\n", "0 of 0 lines"),
    ],
)
def test_a_list_that_names_no_image_is_refused(tmp_path, text, reported):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=reported):
        read_subset(tmp_path / "list.txt", KEYS)
