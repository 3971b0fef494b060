"""Layouts of retrieval sets: what is read in which order, and the first thing that is missing."""

import json
import pickle
import re

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.searches import retrieval


def keys(images):
    return images.table.column("key").to_pylist()


@pytest.fixture
def oxford(tmp_path, draw):
    """Four images and two queries, with the keys of the published ground truth."""
    names, queries = [f"all_souls_{n:06d}" for n in (2, 0, 1, 3)], ["queen_000000", "queen_000001"]
    draw(tmp_path / "jpg", *(f"{name}.jpg" for name in [*names, *queries]))
    gnd = [
        {"easy": np.array([1]), "hard": [2], "junk": np.zeros(0), "bbx": [1.4, 2.0, 5.6, 9.0]},
        {"easy": [], "hard": np.array([0, 3]), "junk": [1], "bbx": np.array([0.0, 0, 8, 8])},
    ]
    truth = {"imlist": names, "qimlist": queries, "gnd": gnd}
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return tmp_path


def test_revisited_oxford(oxford):
    result = retrieval.read_revisited(oxford)
    assert keys(result.database) == [f"all_souls_{n:06d}" for n in (2, 0, 1, 3)]
    assert keys(result.queries) == ["queen_000000", "queen_000001"]
    assert result.queries.decode(1)[0, 0].tolist() == [5, 5, 5]
    lists = [
        (d, [(j.positives.tolist(), j.junk.tolist()) for j in rows])
        for d, rows in result.judgments.items()
    ]
    assert lists == [
        ("easy", [([1], [2]), ([], [1, 0, 3])]),
        ("medium", [([1, 2], []), ([0, 3], [1])]),
        ("hard", [([2], [1]), ([0, 3], [1])]),
    ]
    crop = retrieval.crop_to_box(result.queries.decode(0), result.boxes[0])
    assert crop.shape == (6, 5, 3)  # rows 2 to 7, columns 1 to 5


def test_a_box_outside_the_image_leaves_one_pixel():
    image = np.zeros((4, 6, 3), np.uint8)
    assert retrieval.crop_to_box(image, np.array([-3.0, -2, 2, 3])).shape == (3, 2, 3)
    assert retrieval.crop_to_box(image, np.array([9.0, 9, 12, 12])).shape == (1, 1, 3)


def test_the_first_missing_image_of_oxford_is_named(oxford):
    (oxford / "jpg" / "all_souls_000001.jpg").unlink()
    (oxford / "jpg" / "queen_000001.jpg").unlink()
    text = r"^missing file of roxford5k - .*jpg/all_souls_000001\.jpg - give the root"
    with pytest.raises(UsageError, match=text):
        retrieval.read_revisited(oxford)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gnd": [{"easy": [4], "hard": [], "junk": [], "bbx": [0] * 4}] * 2}, "image 4 of 4"),
        (
            {"gnd": [{"easy": [], "hard": [], "junk": [], "bbx": [0] * 4}]},
            "1 judgments of 2 queries",
        ),
        ({"gnd": [{"easy": [0]}] * 2}, "not the ground truth of roxford5k: KeyError('hard')"),
        ({"gnd": [{"easy": [0.5], "hard": [], "junk": [], "bbx": [0] * 4}] * 2}, "no whole number"),
        ({"gnd": 3}, "not the ground truth of roxford5k"),
    ],
)
def test_another_ground_truth_is_refused(oxford, change, text):
    path = oxford / "gnd_roxford5k.pkl"
    truth = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(truth | change))
    with pytest.raises(UsageError, match=re.escape(text)):
        retrieval.read_revisited(oxford)


def test_a_folder_without_ground_truth_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"0 ground truths gnd_\*\.pkl, need 1"):
        retrieval.read_revisited(tmp_path)


@pytest.mark.parametrize("folder", ["", "full"])
def test_ukbench_has_groups_of_four_by_number(tmp_path, draw, folder):
    draw(tmp_path / folder, *(f"ukbench{n:05d}.jpg" for n in range(8)), "notes.txt.png")
    result = retrieval.read_ukbench(tmp_path)
    assert result.groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert result.images.decode(5)[0, 0].tolist() == [5, 5, 5]


def test_a_missing_number_of_ukbench_is_named(tmp_path, draw):
    draw(tmp_path, *(f"ukbench{n:05d}.jpg" for n in (0, 1, 3, 4)))
    with pytest.raises(UsageError, match=r"missing file of UKBench - .*/ukbench00002\.jpg - "):
        retrieval.read_ukbench(tmp_path)


def test_amstertime_pairs_equal_names_in_both_directions(tmp_path, draw):
    draw(tmp_path / "old", "b.jpg", "a.png")
    draw(tmp_path / "new", "a.jpg", "b.jpg")
    both_ways = retrieval.read_amstertime(tmp_path)
    assert list(both_ways) == ["old", "new"]
    old = both_ways["old"]
    assert keys(old.queries) == keys(old.database) == ["a", "b"]
    assert old.queries.decode(0)[0, 0, 0] == 1  # a.png of old
    assert old.database.decode(0)[0, 0, 0] == 0  # a.jpg of new
    assert [j.positives.tolist() for j in old.judgments["all"]] == [[0], [1]]
    (tmp_path / "new" / "b.jpg").unlink()
    with pytest.raises(UsageError, match=r"missing partner of old/b\.jpg in AmsterTime - .*new/b"):
        retrieval.read_amstertime(tmp_path)


def test_met_reads_its_lists(tmp_path, draw):
    draw(tmp_path / "images", "MET/5/0.jpg", "MET/7/0.jpg", "test_met/0.jpg", "test_other/1.jpg")
    lists = tmp_path / "ground_truth"
    lists.mkdir()
    database = [{"id": 5, "path": "MET/5/0.jpg"}, {"id": 7, "path": "MET/7/0.jpg"}]
    (lists / "MET_database.json").write_text(json.dumps(database))
    queries = [{"MET_id": "7", "path": "test_met/0.jpg"}, {"path": "test_other/1.jpg"}]
    (lists / "testset.json").write_text(json.dumps(queries))
    result = retrieval.read_met(tmp_path)
    assert (result.labels.tolist(), result.query_labels.tolist()) == ([5, 7], [7, -1])
    assert result.queries.decode(1)[0, 0, 0] == 3
    with pytest.raises(UsageError, match=r"missing file of Met - .*valset\.json"):
        retrieval.read_met(tmp_path, split="val")
    (lists / "testset.json").write_text("[3]")
    with pytest.raises(UsageError, match=r"^not a ground truth of Met: "):
        retrieval.read_met(tmp_path)
    (lists / "testset.json").write_text("{")
    with pytest.raises(UsageError, match=r"^not JSON: .*testset\.json - restore"):
        retrieval.read_met(tmp_path)
