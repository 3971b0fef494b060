"""Classifiers of ImageNet tested elsewhere: three classes of different colors."""

import json
from dataclasses import replace

import pytest
from classified_sets import write_imagenet
from evaluations import evaluated

from dinoforge.cli.main import main
from dinoforge.evaluation.config import TESTS, BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.layouts import robustness
from dinoforge.evaluation.metrics.classification import ALEXNET_ERRORS
from dinoforge.evaluation.settings import (
    ChoiceConfig,
    FewShotConfig,
    KnnConfig,
    LinearConfig,
    LogisticConfig,
    LowShotConfig,
)

FOG = 2 / 5 * 2 / 3  # error on fog: two severities, two of three classes


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Three classes, of which two compete in ImageNet-A and -R."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "_COUNT", 3)
        patch.setattr(robustness, "_SOME", 2)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    tests = write_imagenet(root)
    return EvaluationConfig(
        sets={"imagenet": SetConfig(layout="imagenet", root=str(root / "imagenet"), tests=tests)},
        baselines=["means=python:evaluations:mean_colors"],
        protocols=["knn", "few_shot", "linear", "logistic", "low_shot"],
        device="cpu",
        knn=KnnConfig(k=[12]),
        few_shot=FewShotConfig(per_class=[2], tries=2),
        linear=LinearConfig(rates=[0.1], epochs=1, epoch_steps=200, batch_size=12),
        low_shot=LowShotConfig(per_class=[2], splits=2),
        logistic=LogisticConfig(c_min=1, c_max=1e3, c_count=2),
        bootstrap=BootstrapConfig(resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, evaluated(config, folder)


@pytest.mark.parametrize("protocol", ["knn", "few_shot_2", "linear", "logistic", "low_shot_2"])
def test_one_classifier_is_tested_on_every_set(done, protocol):
    records = {
        record.benchmark.partition("/imagenet")[2]: record
        for record in done[1]
        if record.benchmark.startswith(f"{protocol}/") and record.settings.get("k") in {None, 2, 12}
    }
    assert set(records) == {"", *(f"/{name}" for name in TESTS)}
    values = {name: record.value for name, record in records.items()}
    # None of few neighbors is of a class that competes.
    some = 1 / 2 if protocol == "few_shot_2" else 3 / 4
    assert values == pytest.approx(
        {
            "": 1.0,
            "/real": 4 / 5,
            "/v2": 1.0,
            "/a": some,
            "/r": some,
            "/sketch": 1.0,
            "/objectnet": 2 / 3,
            "/c": FOG / ALEXNET_ERRORS["fog"] / 15,
        }
    )
    assert records["/c"].metric == "mce"
    assert records["/c"].n == 3 * 75
    assert records["/c"].settings["relative_errors"]["fog"] == pytest.approx(
        FOG / ALEXNET_ERRORS["fog"]
    )
    assert records["/a"].settings["classes"] == 2
    assert records["/real"].settings["left_out"] == {"no label": 1}
    assert records["/objectnet"].settings["left_out"] == {"no ImageNet class": 1}
    assert records["/objectnet"].settings["border"] == 2
    assert records[""].interval is not None


def test_only_the_images_that_chose_a_head_are_a_peek(config, tmp_path):
    one = replace(config.sets["imagenet"], protocols=["linear"])
    one = replace(one, tests={name: one.tests[name] for name in ("v2", "real")})
    paper = replace(
        config,
        sets={"imagenet": one},
        linear=replace(config.linear, rates=[0.1, 0.2]),
        linear_choice=ChoiceConfig(select="paper"),
    )
    records = {r.benchmark: r for r in evaluated(paper, tmp_path)}
    assert records["linear/imagenet"].selection == "test-peek"
    assert records["linear/imagenet/real"].selection == "test-peek"
    assert records["linear/imagenet/v2"].selection == "val"
    assert records["linear/imagenet/v2"].settings["chosen_on"] == "the test images of imagenet"


def test_lists_of_images_take_the_place_of_draws(config, tmp_path):
    lists = []
    for number in range(2):
        lists.append(str(tmp_path / f"{number}.txt"))
        names = [f"{name}_{number}.JPEG\n" for name in ("n01", "n02", "n03")]
        (tmp_path / f"{number}.txt").write_text("".join(names))
    one = replace(config.sets["imagenet"], tests={}, subsets=lists, protocols=["low_shot"])
    (record,) = evaluated(replace(config, sets={"imagenet": one}), tmp_path / "run")
    assert record.benchmark == "low_shot_1/imagenet"
    assert (record.settings["splits"], record.settings["images"]) == (2, "listed")
    assert (record.settings["bank"], record.value) == (3, 1.0)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"root": "nowhere"}, "missing file of imagenet - "),
        ({"tests": {"v2": "nowhere"}}, "missing file of ImageNet-V2 - "),
        ({"tests": {"v3": "x"}}, "`sets.imagenet.tests` has v3 - "),
        ({"subsets": ["nowhere.txt"]}, "missing file of a labeled subset - nowhere.txt"),
        ({"layout": "camvid", "tests": {"v2": "x"}}, "`sets.imagenet.tests` without that layout"),
    ],
)
def test_a_wrong_layout_is_one_line_and_exit_code_2(config, tmp_path, capsys, sets, message):
    one = config.sets["imagenet"]
    given = {"layout": one.layout, "root": one.root} | sets
    words = [f"out={tmp_path / 'run'}", f"sets={json.dumps({'imagenet': given})}"]
    assert main(["evaluate", *words, "baselines=[means=python:evaluations:mean_colors]"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_a_folder_of_no_class_is_refused(config, tmp_path, capsys):
    (tmp_path / "v2/9").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"v2/{number}").mkdir()
    one = config.sets["imagenet"]
    given = {"layout": one.layout, "root": one.root, "tests": {"sketch": str(tmp_path / "v2")}}
    words = [f"out={tmp_path / 'run'}", f"sets={json.dumps({'imagenet': given})}"]
    assert main(["evaluate", *words, "baselines=[means=python:evaluations:mean_colors]"]) == 2
    assert "`0` is none of the 3 classes" in capsys.readouterr().err
