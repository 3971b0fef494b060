"""In-context segmentation in the pipeline: the nearest patches of an untrained network."""

import pytest
from benchmark_sets import write_camvid
from evaluations import evaluated, write_run

from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import InContextConfig


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("in-context")
    config = EvaluationConfig(
        checkpoint=str(write_run(root / "trained", steps=(0, 1))),
        baselines=[],
        sets={"toy": SetConfig(layout="camvid_tars", root=str(write_camvid(root / "toy")))},
        protocols=["in_context"],
        device="cpu",
        in_context=InContextConfig(size=[48, 48], memory=24, k=3, seeds=[0, 1, 2]),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )
    return evaluated(config, root / "run")


def test_neighbors_know_the_colors_that_constants_do_not(records):
    by_model = {r.model: r for r in records if r.metric == "mean_iou"}
    trained = by_model["trained"]
    assert trained.value > 0.6
    assert trained.value > by_model["majority per position"].value + 0.3
    assert by_model["color and position"].value > by_model["majority class"].value
    assert trained.settings["features"] == "last block"
    assert (trained.settings["seeds"], trained.settings["memory"]) == (3, 24)
    assert by_model["color and position"].settings["deviation"] > 0
    assert trained.settings["units"] == 2  # a block of each drive


def test_models_are_paired(records):
    pairs = {r.model: r for r in records if r.metric == "mean_iou_difference"}
    assert pairs["trained - majority per position"].interval[0] > 0.2
    assert "trained - untrained" in pairs
