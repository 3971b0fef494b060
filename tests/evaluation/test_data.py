import io
import logging
import shutil
import tarfile
from contextlib import nullcontext

import numpy as np
import pytest
from evaluations import open_data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import hold_out


def write_set(folder, classes, names=None, kind="tar"):
    """Write one small image per class: into a tar with .cls, or into class folders."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "x.tar", "w") if kind == "tar" else nullcontext() as tar:
        for number, name in enumerate(classes):
            file = io.BytesIO()
            Image.effect_noise((12, 12), 90).save(file, "PNG")
            if tar is None:
                (folder / name).mkdir(exist_ok=True)
                (folder / name / f"{number}.png").write_bytes(file.getvalue())
                continue
            members = {"png": file.getvalue(), "cls": str(name).encode()}
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{number:03d}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    if names is not None:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return str(folder)


def opened(tmp_path, **more):
    paths = {"train": [str(tmp_path / "train")], "test": [str(tmp_path / "test")]}
    return open_data(EvaluationConfig(**paths, **more), tmp_path / "cache")


def matches(data):
    """For every test image, the positions of the bank's images of its class."""
    return [np.flatnonzero(data.bank.labels == at).tolist() for at in data.test.labels]


@pytest.mark.parametrize(
    ("train", "test", "matched"),
    [
        # (classes, list), a dict: class folders
        (([1, 0], None), ([0, 1, 7], None), [[1], [0], []]),
        (([10, 9], None), ({"9", "10"}, None), [[0], [1]]),
        (({"10", "9"}, None), ([9, 10], None), [[1], [0]]),
        (({"007", "b"}, None), ([7], None), [[0]]),
        (([5_000_000_000, 3], None), ([5_000_000_000, -1], None), [[0], []]),
        (([0, 1], ["cat", "dog"]), ({"dog"}, None), [[1]]),
        (([0, 1], ["cat", "dog"]), ([0, 1], ["dog", "cat"]), [[1], [0]]),
        (([0, 1], ["cat", "dog"]), ([0, 1], None), [[0], [1]]),
        (([1, 0], None), ([0, 1], ["cat", "dog"]), [[1], [0]]),
        (([0, 1, 2], ["crane", "dog", "crane"]), ([2, 0], ["crane", "dog", "crane"]), [[2], [0]]),
        ((["cat", "dog"], None), ({"dog", "cow"}, None), [[], [1]]),
    ],
)
def test_bank_and_test_images_meet_by_class(tmp_path, train, test, matched):
    for part, (classes, names) in (("train", train), ("test", test)):
        kind = "folders" if isinstance(classes, set) else "tar"
        write_set(tmp_path / part, sorted(classes) if kind == "folders" else classes, names, kind)
    assert matches(opened(tmp_path)) == matched


def test_sources_with_and_without_names_lose_no_label(tmp_path):
    train = [
        write_set(tmp_path / "numbers", [0, 1]),
        write_set(tmp_path / "folders", ["bird", "fish"], kind="folders"),
    ]
    from dinoforge.evaluation.settings import SplitConfig

    split = SplitConfig(mode="leave_one_out")
    data = open_data(EvaluationConfig(train=train, split=split), tmp_path / "cache")
    assert len(set(data.bank.labels.tolist()) - {-1}) == 4


def test_no_common_class_is_an_error_that_names_both_sets(tmp_path):
    write_set(tmp_path / "train", ["cat", "dog"], kind="folders")
    write_set(tmp_path / "test", [0, 1])
    with pytest.raises(UsageError) as caught:
        opened(tmp_path)
    for part in (
        f"cat, dog (names in {tmp_path}/train/cat/0.png)",
        f"0, 1 (numbers in {tmp_path}/test/x.tar)",
        "test_classes",
    ):
        assert part in str(caught.value)


def test_a_recipe_maps_classes_and_the_records_change_their_name(tmp_path):
    write_set(tmp_path / "train", ["cat", "dog"], kind="folders")
    write_set(tmp_path / "test", [0, 1, 255])
    maps = ({"0": "cat", "1": "dog", "255": ""}, {"0": "dog", "1": "cat", "*": ""})
    data = [opened(tmp_path, test_classes=renames) for renames in maps]
    assert [matches(d) for d in data] == [[[0], [1], []], [[1], [0], []]]
    with pytest.raises(UsageError, match=r"no class `cta` - `train_classes`"):
        opened(tmp_path, train_classes={"cta": "cat"})


def test_images_without_a_label_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_set(tmp_path / "train", [0, 1, "null", -1.5])
    write_set(tmp_path / "test", [0, -1])
    opened(tmp_path)
    assert "2 of 4 images of the bank have no label" in caplog.text
    assert "1 of 2 images of the test set have no label" in caplog.text
    # Folders that are given one by one are no class folders.
    write_set(tmp_path / "folders", ["cat", "dog"], kind="folders")
    paths = [str(tmp_path / name) for name in ("folders/cat", "folders/dog", "train")]
    caplog.clear()
    open_data(EvaluationConfig(train=paths, test=paths[2:]), tmp_path / "cache")
    assert "4 of 6 images of the bank have no label" in caplog.text


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


def test_without_test_images_bank_and_test_share_none(pictures, tmp_path):
    data = open_data(config(pictures), tmp_path)
    assert data.bank.images is data.test.images
    assert sorted([*data.bank.rows, *data.test.rows]) == list(range(39))
    assert np.bincount(data.test.labels).tolist() == [3, 2, 3]  # a fifth of 14, 12, 13


def test_leave_one_out_asks_every_image(pictures, tmp_path):
    from dinoforge.evaluation.settings import SplitConfig

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
    assert not np.isin(1, data.bank.labels)
    assert (data.test.labels == 1).sum() == 7


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_folder_is_named(pictures, tmp_path, missing):
    paths = {"train": [str(pictures / "bank")], "test": [str(pictures / "test")]}
    paths[missing] = [str(tmp_path / "nowhere")]
    with pytest.raises(UsageError, match="nowhere"):
        open_data(EvaluationConfig(**paths), tmp_path)


def test_test_images_that_are_in_the_bank_are_counted_in_a_warning(tmp_path, caplog):
    write_set(tmp_path / "train", [0, 1, 0])
    write_set(tmp_path / "test", [0, 1])
    opened(tmp_path)
    assert "also in the bank" not in caplog.text
    (tmp_path / "test/linked.tar").symlink_to(tmp_path / "train/x.tar")
    opened(tmp_path)
    assert "3 of 5 test images are also in the bank" in caplog.text
