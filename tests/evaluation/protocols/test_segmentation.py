"""Linear segmentation in the pipeline: three colors, which an untrained network separates."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_sets import write_masked, write_nyu
from evaluations import evaluated, write_run

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import LAYOUTS, BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.methods.dense.head_files import load_head
from dinoforge.evaluation.settings import HeadConfig, SegmentationConfig
from dinoforge.files import sha256_file
from dinoforge.steps import export_file

MASKED = ("ade20k", "voc12", "cityscapes", "camvid", "nyu_40")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmentation")
    return EvaluationConfig(
        checkpoint=str(write_run(root / "trained", steps=(0, 1))),
        baselines=["pixels_centered"],
        sets={"toy": SetConfig(layout="nyu_tars", root=str(write_nyu(root / "toy")))},
        protocols=["segmentation"],
        device="cpu",
        segmentation=SegmentationConfig(
            size=[48, 48], blocks=[1], head=HeadConfig(steps=40, batch_size=4, seeds=[0, 1])
        ),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluated(config, folder)


def scores(records):
    return {r.model: r for r in records if r.metric == "mean_iou"}


def test_heads_find_colors_that_baselines_by_position_do_not(done):
    by_model = scores(done[1])
    assert set(by_model) == {
        "trained",
        "untrained",
        "majority class",
        "majority per position",
        "color and position",
    }
    assert by_model["trained"].value > 0.85
    assert by_model["color and position"].value > by_model["majority class"].value
    assert by_model["majority class"].value < 0.2
    assert by_model["majority per position"].value < 0.4
    assert by_model["trained"].settings["seeds"] == 2
    assert by_model["trained"].settings["deviation"] > 0
    low, high = by_model["trained"].interval
    assert low <= by_model["trained"].value <= high


def test_models_are_paired_with_the_trained_one(done):
    pairs = {r.model: r for r in done[1] if r.metric == "mean_iou_difference"}
    assert len(pairs) == 4
    assert pairs["trained - majority per position"].interval[0] > 0.3


def test_the_first_head_is_kept_for_its_backbone(config, done):
    file = done[0] / "evaluation/40-segmentation/part-00000.head-1.safetensors"
    backbone = sha256_file(export_file(Path(config.checkpoint), 1))
    head, notes = load_head(file, backbone=backbone)
    assert head.weight.shape == (3, 24)
    assert notes.classes == ("blue", "green", "red")
    assert notes.input_size == (48, 48)
    with pytest.raises(UsageError, match="the head was trained on"):
        load_head(file, backbone="0" * 64)


@pytest.mark.parametrize("test", ["sliding", "multi_scale"])
def test_images_can_be_seen_in_windows(config, done, tmp_path, test):
    windows = replace(config.segmentation, test=test)
    records = evaluated(replace(config, segmentation=windows, baselines=[]), tmp_path)
    whole, trained = (scores(some)["trained"] for some in (done[1], records))
    assert trained.settings["inference"] == test
    if test == "sliding":  # one window sees the whole image
        assert trained.value == pytest.approx(whole.value, abs=0.01)
    else:  # halved, a patch has several colors
        assert 0.5 < trained.value < whole.value


@pytest.fixture(scope="module")
def published(config, tmp_path_factory):
    """Measure five layouts with images of several sizes."""
    root = tmp_path_factory.mktemp("published")
    splits = {name: LAYOUTS[name].splits for name in MASKED}
    sets = {
        name: SetConfig(layout=name, root=str(write_masked(root / name, name, of)))
        for name, of in splits.items()
    }
    few = replace(config.segmentation, head=HeadConfig(steps=60, batch_size=4))
    settings = replace(config, sets=sets, baselines=[], segmentation=few)
    return evaluated(settings, root / "run")


@pytest.mark.parametrize(
    ("layout", "units"), [(name, 1 if name == "camvid" else 4) for name in MASKED]
)
def test_images_of_several_sizes_in_published_layouts(published, layout, units):
    by_model = scores([r for r in published if r.benchmark == f"segmentation/{layout}"])
    assert by_model["trained"].value > 0.6
    assert by_model["trained"].value > by_model["majority per position"].value + 0.3
    assert by_model["trained"].settings["classes"] == 3
    assert by_model["trained"].settings["units"] == units
    assert by_model["trained"].n == 4


def test_a_set_without_masks_is_refused(config):
    sets = {"toy": SetConfig(layout="nyu_depth", root="x", protocols=["segmentation"])}
    (fault,) = sets["toy"].faults("sets.toy")
    assert "segmentation, which needs masks" in fault.what
