"""Few images: what can be measured is measured, else one line states the cause."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluations import evaluated, open_data

from dinoforge.cli.main import main
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig
from dinoforge.evaluation.data import NothingToTestError
from dinoforge.evaluation.report.build import make_report
from dinoforge.evaluation.scores import list_left_out
from dinoforge.evaluation.settings import LogisticConfig, SplitConfig
from dinoforge.records import read_records

LEAVE_ONE_OUT = SplitConfig(mode="leave_one_out")


@pytest.fixture
def folder(pictures, tmp_path):
    """Make a folder of pictures by class: ``red=2``; class `none`: without a class."""

    def make(name, bad=(), **counts):
        for kind, count in counts.items():
            target = tmp_path / name / ("." if kind == "none" else kind)
            target.mkdir(parents=True, exist_ok=True)
            source = pictures / "bank" / ("blue" if kind == "none" else kind)
            for file in sorted(source.iterdir())[:count]:
                shutil.copy(file, target)
                if kind in bad:
                    (target / file.name).write_bytes(b"no image")
        return str(tmp_path / name)

    return make


@pytest.fixture
def measure(run_folder, tmp_path):
    def run(train, test=(), **more):
        config = EvaluationConfig(
            out=str(tmp_path / "run"),
            name="few",
            train=[train],
            test=list(test),
            checkpoint=str(run_folder),
            checkpoints=50,
            features=["cls"],
            device="cpu",
            logistic=LogisticConfig(c_count=2, max_iterations=20),
            bootstrap=BootstrapConfig(resamples=100),
            **more,
        )
        return evaluated(config, tmp_path / "run"), config

    return run


@pytest.mark.parametrize(
    ("counts", "more", "what"),
    [
        ({"red": 1}, {}, "no test image is left after the split: there is 1 image"),
        (
            {"red": 1, "green": 1, "blue": 1},
            {"split": SplitConfig(mode="auto")},
            "no test image is left after the split: each of the 3 classes has 1 image",
        ),
        ({"red": 1}, {"split": LEAVE_ONE_OUT}, "leave-one-out needs at least 2 images, got 1"),
        ({"none": 1}, {}, "signs of collapse need 2 images, got 1, and other protocols need"),
        ({"red": 1, "none": 5}, {}, "signs of collapse need 2 images, got 1"),
        ({"none": 3}, {"protocols": ["knn"]}, "no labels, and the protocols need them"),
        ({"red": 2, "bad": ["red"]}, {}, "none of the 1 images of the bank decodes"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_without_anything_to_test_one_line_states_the_cause(folder, measure, counts, more, what):
    with pytest.raises(NothingToTestError) as caught:
        measure(folder("train", **counts), **more)
    (fault,) = caught.value.faults
    assert fault.what.startswith(what)
    assert fault.where == "`train`"


def test_undecodable_test_images_are_reported_where_they_come_from(folder, measure, tmp_path):
    train = folder("train", red=2, blue=2)
    with pytest.raises(NothingToTestError, match="none of the 2 test images decodes - `test` - "):
        measure(train, [folder("test", bad=["red"], red=2)])
    single = folder("single", red=2)
    data = open_data(EvaluationConfig(train=[single]), tmp_path / "cache")
    held_out = data.test.images.table["shard"][int(data.test.rows[0])].as_py()
    Path(held_out).write_bytes(b"no image")
    with pytest.raises(NothingToTestError, match=r"none of the 1 images held out .* - `train` - "):
        measure(single)


def test_without_a_record_the_needs_of_the_protocols_are_listed(folder, tmp_path, capsys):
    train, one = folder("train", red=2, blue=2), folder("test", red=1)
    words = [f"train=[{train}]", f"test=[{one}]", "protocols=[collapse]", f"out={tmp_path / 'run'}"]
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: nothing was measured: no signs of collapse: they need a network"
    )
    assert read_records(tmp_path / "run/records.jsonl") == []
    page = make_report(tmp_path / "report", evaluation=tmp_path / "run").html.read_text()
    assert "The evaluation measured nothing." in page
    assert "No signs of collapse: they need a network and two test images." in page


@pytest.mark.parametrize(
    ("given", "ks", "num_test", "left_out"),
    [
        (
            ({"red": 2}, {}),
            {1},
            1,
            [
                "no k-NN with k = 10, 20, 100, 200: the size of the bank is 1",
                "no logistic regression: it needs a network, two classes, separate test images",
                "no signs of collapse: they need a network and two test images",
            ],
        ),
        (
            ({"red": 2, "blue": 2}, {}),
            {2},
            2,
            ["no k-NN with k = 10, 20, 100, 200: the size of the bank is 2"],
        ),
        (
            ({"red": 6, "blue": 6}, {"split": SplitConfig(mode="auto")}),
            {10},
            12,
            [
                "no k-NN with k = 20, 100, 200: the size of the bank is 12",
                "no logistic regression: it needs a network, two classes, separate test images",
            ],
        ),
        (
            ({"none": 3}, {}),
            set(),
            3,
            [
                "no k-NN: it needs labeled images that decode",
                "no logistic regression: it needs a network, two classes, separate test images",
            ],
        ),
    ],
    ids=["two", "two of two classes", "twelve", "without classes"],
)
def test_few_images_are_measured_as_far_as_they_go(
    folder, measure, tmp_path, given, ks, num_test, left_out
):
    counts, more = given
    records, config = measure(folder("train", **counts), **more)
    assert {r.settings["k"] for r in records if r.benchmark == "knn/few"} == ks
    assert {r.n for r in records} == {num_test}
    for record in records:
        if record.interval is not None:
            assert record.interval[0] < record.interval[1], record
    assert list_left_out(records, config.protocols) == left_out
    assert read_records(tmp_path / "run/records.jsonl")
    page = make_report(tmp_path / "report", evaluation=tmp_path / "run").html.read_text()
    assert ">nan" not in page


def test_a_class_of_one_image_is_reported_under_leave_one_out(folder, measure, caplog):
    measure(folder("train", red=3, blue=1), split=LEAVE_ONE_OUT)
    assert "1 images are alone in their class: leave-one-out gets them wrong" in caplog.text


@pytest.mark.parametrize(("num", "leave_one_out"), [(29, True), (30, False)])
def test_auto_holds_out_only_if_that_leaves_enough_test_images(
    monkeypatch, folder, tmp_path, num, leave_one_out
):
    def chosen(labels, share, seed):
        return np.arange(len(labels)) < num

    monkeypatch.setattr("dinoforge.evaluation.data.hold_out", chosen)
    train = folder("train", red=13, blue=13, green=12)
    config = EvaluationConfig(train=[train], split=SplitConfig(mode="auto"))
    assert open_data(config, tmp_path).leave_one_out == leave_one_out


def test_undefined_numbers_are_printed_as_dashes(folder, run_folder, tmp_path, capsys):
    words = [f"train=[{folder('train', none=2)}]", f"checkpoint={run_folder}", "features=[cls]"]
    assert main(["evaluate", *words, f"out={tmp_path / 'run'}", "-q"]) == 0
    printed = capsys.readouterr().out
    assert "alpha_req" in printed
    assert "nan" not in printed
