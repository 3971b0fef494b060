import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import hold_out, match_classes, open_data


def images(names, labels=None):
    """Stands in for an `ImageSet` with these class names by image."""
    numbered = sorted(set(names) - {""})
    own = [numbered.index(name) if name else -1 for name in names]
    column = labels if labels is not None else own
    return SimpleNamespace(
        class_names=numbered,
        labels=np.array(own if numbered else column, np.int64),
        table=pa.table({"label": pa.array(column, pa.int32())}),
    )


def test_classes_meet_by_name_however_each_set_numbers_them():
    train = images(["ant", "bee", "cat", "bee"])
    test = images(["cat", "bee", ""])
    labels, test_labels, strangers = match_classes(train, test)
    assert labels.tolist() == [0, 1, 2, 1]
    assert test_labels.tolist() == [2, 1, -1]
    assert strangers == {}


def test_a_class_that_the_bank_has_not_is_a_class_of_its_own():
    labels, test_labels, strangers = match_classes(images(["bee"]), images(["ant", "bee", "cow"]))
    assert labels.tolist() == [0]
    assert test_labels.tolist() == [1, 0, 2]
    assert strangers == {1: "ant", 2: "cow"}


def test_numbers_are_compared_where_one_set_has_no_names():
    # By name "cat" is class 0 of its set; its label in the file is 7.
    train = images(["", "", ""], labels=[7, 3, -1])
    test = images(["cat", "dog"], labels=[7, 9])
    labels, test_labels, strangers = match_classes(train, test)
    assert labels.tolist() == [7, 3, -1]
    assert test_labels.tolist() == [7, 9]
    assert strangers == {9: "9"}


@given(st.lists(st.integers(-1, 3), max_size=40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_hold_out_takes_its_share_of_every_class_and_leaves_some(labels, share, seed):
    labels = np.array(labels, np.int64)
    is_test = hold_out(labels, share, seed)
    for label in set(labels.tolist()):
        actual = is_test[labels == label]
        if len(actual) == 1:
            assert not actual.any()
        else:
            assert 1 <= actual.sum() < len(actual)
            assert abs(actual.sum() - share * len(actual)) <= 1


def test_hold_out_depends_on_its_seed_alone():
    labels = np.arange(100) % 4
    first = hold_out(labels, 0.3, 1)
    assert (first == hold_out(labels, 0.3, 1)).all()
    assert (first != hold_out(labels, 0.3, 2)).any()


def config(pictures, **more):
    return EvaluationConfig(train=[str(pictures / "bank")], **more)


def test_two_folders_give_bank_and_test(pictures, tmp_path):
    data = open_data(config(pictures, test=[str(pictures / "test")]), tmp_path)
    assert (len(data.bank.rows), len(data.test.rows)) == (39, 18)
    assert np.bincount(data.test.labels).tolist() == [6, 7, 5]
    assert data.is_labeled
    assert data.fingerprint == data.test.images.fingerprint


def test_without_test_images_bank_and_test_share_none(pictures, tmp_path):
    data = open_data(config(pictures), tmp_path)
    assert data.bank.images is data.test.images
    assert sorted([*data.bank.rows, *data.test.rows]) == list(range(39))
    assert np.bincount(data.test.labels).tolist() == [3, 2, 3]  # a fifth of 14, 12, 13


def test_another_share_is_another_fingerprint(pictures, tmp_path):
    from dinoforge.evaluation.config import SplitConfig

    halves = open_data(config(pictures, split=SplitConfig(share=0.5)), tmp_path)
    assert halves.fingerprint != open_data(config(pictures), tmp_path).fingerprint


def test_leave_one_out_asks_every_image(pictures, tmp_path):
    from dinoforge.evaluation.config import SplitConfig

    data = open_data(config(pictures, split=SplitConfig(mode="leave_one_out")), tmp_path)
    assert data.leave_one_out
    assert data.test.rows.tolist() == list(range(39))


def test_images_without_classes_are_reported_in_one_line(pictures, tmp_path, caplog):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (pictures / "bank").rglob("*.png"):
        shutil.copy(path, flat / path.name)
    with caplog.at_level(logging.INFO, logger="dinoforge.evaluation"):
        data = open_data(EvaluationConfig(train=[str(flat)]), tmp_path)
    assert not data.is_labeled
    reported = [r.getMessage() for r in caplog.records if "no labels" in r.getMessage()]
    assert reported == ["no labels in the bank: recording only metrics without labels"]


def test_test_classes_that_are_not_in_the_bank_are_reported(pictures, tmp_path, caplog):
    bank = tmp_path / "bank"
    shutil.copytree(pictures / "bank", bank, ignore=shutil.ignore_patterns("green*"))
    with caplog.at_level(logging.WARNING, logger="dinoforge.evaluation"):
        data = open_data(
            EvaluationConfig(train=[str(bank)], test=[str(pictures / "test")]), tmp_path
        )
    assert "7 test images belong to classes that the bank lacks: green" in caplog.text
    assert not np.isin(2, data.bank.labels)
    assert (data.test.labels == 2).sum() == 7


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_folder_is_named(pictures, tmp_path, missing):
    from dinoforge.errors import UsageError

    paths = {"train": [str(pictures / "bank")], "test": [str(pictures / "test")]}
    paths[missing] = [str(tmp_path / "nowhere")]
    with pytest.raises(UsageError, match="nowhere"):
        open_data(EvaluationConfig(**paths), tmp_path)
