"""Layouts of copy detection: pairs by name, and the first thing that is missing."""

import json
import re

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.named_images import with_distractors
from dinoforge.evaluation.layouts.searches import copies
from dinoforge.sources.image_set import open_images


def matches(result):
    return [rows.tolist() for rows in result.matches]


@pytest.fixture
def disc(tmp_path, draw):
    draw(tmp_path / "images/queries", *(f"Q{n:05d}.jpg" for n in range(4)))
    draw(tmp_path / "images/references", *(f"R{n:06d}.jpg" for n in range(3)))
    lists = tmp_path / "list_files"
    lists.mkdir()
    (lists / "dev_queries_25k").write_text("Q00002\nQ00000\nQ00003\n")
    lines = ["query_id,reference_id", "Q00000,R000002", "Q00000,R000001", "Q00003,"]
    (lists / "public_ground_truth.csv").write_text("\r\n".join(lines))
    return tmp_path


def test_disc_asks_the_listed_queries_only(disc):
    result = copies.read_disc(disc)
    assert result.queries.table.column("key").to_pylist() == ["Q00002", "Q00000", "Q00003"]
    assert result.references.table.column("key").to_pylist() == ["R000000", "R000001", "R000002"]
    assert matches(result) == [[], [2, 1], []]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Q00001,R000000", "line 1: Q00001 is no query - "),
        ("Q00000,R000009", "line 1: R000009 is no reference - "),
        ("Q00000", "line 1: nothing is no reference - "),
    ],
)
def test_pairs_of_unknown_images_are_refused(disc, line, text):
    (disc / "list_files/public_ground_truth.csv").write_text(line)
    with pytest.raises(UsageError, match=re.escape(text)):
        copies.read_disc(disc)


@pytest.mark.parametrize(
    "name", ["images/queries/Q00000.jpg", "list_files/public_ground_truth.csv"]
)
def test_the_first_missing_file_of_disc_is_named(disc, name):
    (disc / name).unlink()
    with pytest.raises(UsageError, match=rf"^missing file of DISC21 - .*{name} - give the root"):
        copies.read_disc(disc)


def test_an_empty_folder_of_disc_is_named(disc):
    for file in (disc / "images/references").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=r"^no images for DISC21 - .*images/references - "):
        copies.read_disc(disc)


def test_copydays_matches_by_the_number_of_the_original(tmp_path, draw):
    draw(tmp_path / "original", "200000.jpg", "200100.jpg")
    draw(tmp_path / "strong", "200001.jpg", "200002.jpg", "200101.jpg")
    result = copies.read_copydays(tmp_path)
    assert matches(result) == [[0], [0], [1]]
    assert result.kinds == ("strong",) * 3
    draw(tmp_path / "jpegqual/5", "200100.jpg")
    assert matches(copies.read_copydays(tmp_path, block="jpegqual/5")) == [[1]]
    draw(tmp_path / "strong", "200301.jpg")
    text = r"^missing original of strong/200301\.jpg in Copydays - .*original/200300\.jpg - "
    with pytest.raises(UsageError, match=text):
        copies.read_copydays(tmp_path)


def test_distractors_follow_the_references(tmp_path, draw):
    draw(tmp_path / "original", "200000.jpg", "200100.jpg")
    draw(tmp_path / "strong", "200101.jpg")
    draw(tmp_path / "others", "x.png", "y.png", "z.png")
    result = copies.read_copydays(tmp_path)
    others = open_images([str(tmp_path / "others")], cache=tmp_path / "cache")
    joined = with_distractors(result.references, others)
    assert joined.table.column("key").to_pylist() == ["200000", "200100", "x", "y", "z"]
    assert joined.decode(4)[0, 0, 0] == 2
    assert matches(result) == [[1]]


@pytest.fixture
def own(tmp_path, draw):
    draw(tmp_path / "queries", "q0.png", "q1.png")
    draw(tmp_path / "pool", "a.png", "b.png")
    truth = {"queries": {"q0": {"match": "b", "kind": "crop"}, "q1": {"match": None}}}
    (tmp_path / "queries/ground_truth.json").write_text(json.dumps(truth))
    return tmp_path


def read(folder):
    return copies.read_ground_truth(
        folder / "queries", [str(folder / "pool")], cache=folder / "cache"
    )


def test_a_ground_truth_beside_images(own):
    result = read(own)
    assert matches(result) == [[1], []]
    assert result.kinds == ("crop", "")


@pytest.mark.parametrize(
    ("truth", "text"),
    [
        ({"queries": {"q0": {"match": "b"}}}, "image q1 of the folder is not in it - "),
        (
            {"queries": {k: {"match": None} for k in ("q0", "q1", "q2")}},
            "query q2 is no image of the folder - ",
        ),
        (
            {"queries": {"q0": {"match": "c"}, "q1": {"match": None}}},
            "match c of query q0 is no reference - ",
        ),
        ({"queries": {"q0": {}, "q1": {}}}, "not a ground truth of copies: KeyError('match') - "),
        ([], "not a ground truth of copies: "),
    ],
)
def test_a_ground_truth_of_other_images_is_refused(own, truth, text):
    (own / "queries/ground_truth.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match=re.escape(text)):
        read(own)


def test_copydet(shared, tmp_path):
    data = shared / "data"
    result = copies.read_ground_truth(
        data / "copydet", [str(data / "imagenet-sample")], cache=tmp_path
    )
    assert (len(result.queries), len(result.references)) == (200, 1000)
    assert np.bincount([len(rows) for rows in result.matches]).tolist() == [50, 150]
    assert len(set(result.kinds) - {"negative"}) == 23
