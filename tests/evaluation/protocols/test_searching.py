"""Retrieval, recognition and copy detection in the pipeline, on tiny sets of every layout."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import searched_sets as sets
from evaluations import evaluated, write_run

from dinoforge.cli.main import main
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import (
    CopiesConfig,
    InputConfig,
    KnnConfig,
    RankingConfig,
    SplitConfig,
    WhiteningConfig,
)

WRITERS = {
    "roxford5k": sets.write_oxford,
    "ukbench": sets.write_ukbench,
    "amstertime": sets.write_amstertime,
    "met": sets.write_met,
    "copydays": sets.write_copydays,
    "disc21": sets.write_disc,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("searches")
    queries, pool = sets.write_edited(root / "edited")
    layouts = {
        name: SetConfig(layout=name, root=str(write(root / name)))
        for name, write in WRITERS.items()
    }
    return EvaluationConfig(
        checkpoint=str(write_run(root / "run", steps=(0, 1))),
        baselines=["pixels"],
        features=["cls", "cls_gem"],
        input=InputConfig(side=48, fit="stretch"),
        sets={
            **layouts,
            "edited": SetConfig(layout="ground_truth", root=str(queries), train=[str(pool)]),
            "groups": SetConfig(train=[str(sets.write_groups(root / "groups"))]),
        },
        split=SplitConfig(mode="leave_one_out"),
        protocols=["ranking", "instances", "copies", "knn"],
        knn=KnnConfig(k=[1]),
        copies=CopiesConfig(whitening=WhiteningConfig(set="groups", dim=4)),
        device="cpu",
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def records(config, tmp_path_factory):
    return evaluated(config, tmp_path_factory.mktemp("measured"))


def values(records, benchmark, features="pixel_descriptor"):
    return {
        r.metric: r.value
        for r in records
        if r.benchmark == benchmark and r.settings.get("features") == features
    }


def test_oxford_has_three_difficulties_and_looks_into_boxes(config, records, tmp_path):
    for part in ("easy", "medium", "hard"):
        scores = values(records, f"ranking_{part}/roxford5k")
        assert scores.pop("map") == 1.0
        assert scores == {"top_1": 1.0, **{f"precision_at_{k}": 1.0 for k in (1, 5, 10)}}
    of_oxford = [r for r in records if "roxford" in r.benchmark and "model_a" not in r.settings]
    assert {r.settings["query_region"] for r in of_oxford} == {"box"}
    whole = replace(
        config,
        baselines=["pixels"],
        checkpoint="",
        sets={"roxford5k": config.sets["roxford5k"]},
        ranking=RankingConfig(query="whole"),
        copies=CopiesConfig(),
    )
    whole_records = evaluated(whole, tmp_path)
    assert values(whole_records, "ranking_medium/roxford5k")["map"] < 0.9
    assert {r.settings["query_region"] for r in whole_records} == {"whole"}


def test_groups_of_ukbench_and_of_folders(records):
    assert values(records, "ranking/ukbench") == {"map": 1.0, "top_1": 1.0, "ns_score": 4.0}
    (of_groups,) = (
        r
        for r in records
        if r.benchmark == "ranking/groups"
        and r.metric == "map"
        and r.settings["features"] == "pixel_descriptor"
    )
    assert of_groups.value == 1.0
    assert of_groups.n == 12
    assert of_groups.settings["leave_one_out"]
    # Two of the other 11 images are of the class: the mean over all orders.
    orders = [(1 / (a + 1) + 2 / (b + 1)) / 2 for a, b in itertools.combinations(range(11), 2)]
    assert of_groups.settings["chance"] == pytest.approx(np.mean(orders))
    assert values(records, "knn/groups") == {"accuracy": 1.0}


def test_amstertime_asks_both_ways(records):
    for way in ("old", "new"):
        of_way = values(records, f"ranking_{way}/amstertime")
        assert of_way["top_1"] == 0.75
        assert 0.75 < of_way["map"] < 0.95


def test_met_chooses_on_validation_queries(records):
    assert values(records, "instances/met") == {
        "gap": 1.0,
        "gap_without_distractors": 1.0,
        "accuracy": 1.0,
    }
    (gap,) = (r for r in records if r.metric == "gap" and r.model == "pixel_descriptor")
    assert gap.selection == "val"
    assert gap.settings["distractors"] == 2
    assert gap.settings["chosen_on"] == "GAP of 5 validation queries"


def test_copies_are_one_list_of_all_queries(records):
    for name in ("disc21", "copydays"):
        scores = values(records, f"copies/{name}")
        assert scores.pop("map", 1.0) == 1.0
        assert scores == {"micro_ap": 1.0, "recall_at_p90": 1.0, "recall_at_1": 1.0}
    assert "map" in values(records, "copies/copydays")
    edited = values(records, "copies/edited")
    assert edited["recall_at_1"] == 0.75
    assert edited["recall_at_p90"] == 0.75
    assert 0.75 <= edited["micro_ap"] < 1
    (recall,) = (
        r
        for r in records
        if (r.benchmark, r.metric, r.settings.get("features"))
        == ("copies/edited", "recall_at_1", "pixel_descriptor")
    )
    assert recall.settings["edits_missed"] == ["vflip"]
    assert recall.settings["list_length"] == 5  # all references


def test_descriptors_are_whitened_on_the_named_set(records):
    whitened = [r for r in records if "whitening" in r.settings]
    assert {r.benchmark.partition("/")[0] for r in whitened} == {"copies_whitened"}
    assert {r.settings["features"] for r in whitened} == {"cls", "cls_gem", "pixel_descriptor"}
    assert {r.settings["whitening"]["learned_on"] for r in whitened} == {"groups"}
    assert {r.settings["whitening"]["dim"] for r in whitened} == {4}


def test_models_are_compared_on_the_same_queries(records):
    pairs = {
        (r.benchmark, r.model): r
        for r in records
        if r.metric == "micro_ap_difference" and r.settings["features_a"] == "cls"
    }
    pair = pairs["copies/copydays", "trained - pixel_descriptor"]
    low, high = pair.interval
    assert low <= pair.value <= high <= 0
    of_sides = [r for r in records if r.model == "trained" and "features" in r.settings]
    assert {(r.settings["side"], r.settings["fit"]) for r in of_sides} == {(48, "stretch")}


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        ("roxford5k", "jpg/base_3.jpg"),
        ("ukbench", "full/ukbench00002.jpg"),
        ("amstertime", "new/1.jpg"),
        ("met", "ground_truth/valset.json"),
        ("copydays", "original/200100.jpg"),
        ("disc21", "images/queries/Q00001.jpg"),
    ],
)
def test_the_first_missing_file_is_named_in_one_line(layout, missing, tmp_path, capsys):
    root = WRITERS[layout](tmp_path / "set")
    (root / missing).unlink()
    code = main(
        ["evaluate", f"sets.x.layout={layout}", f"sets.x.root={root}", f"out={tmp_path / 'run'}"]
    )
    error = capsys.readouterr().err
    assert code == 2
    (line,) = (line for line in error.splitlines() if line.startswith("error:"))
    assert missing in line


def test_references_are_needed_and_no_layout_is_whitened_on():
    one = SetConfig(layout="ground_truth", root="queries")
    (fault,) = one.faults("sets.x")
    assert fault.what == "`sets.x.train` is empty"
    config = EvaluationConfig(
        sets={"x": replace(one, train=["pool"])},
        copies=CopiesConfig(whitening=WhiteningConfig(set="x")),
    )
    assert any("copies.whitening.set" in fault.what for fault in config.faults(""))


def test_distractors_enlarge_the_bank(config, tmp_path):
    groups = config.sets["groups"].train
    enlarged = replace(config.sets["copydays"], train=groups)
    few = replace(config, checkpoint="", sets={"x": enlarged}, copies=CopiesConfig())
    scores = evaluated(few, tmp_path)
    assert {r.settings["database"] for r in scores} == {3 + 12}
    assert values(scores, "copies/x")["micro_ap"] == 1.0
