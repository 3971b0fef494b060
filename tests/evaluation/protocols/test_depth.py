"""Depth in the pipeline: three colors with a depth each, which an untrained network separates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import encode, write_depth, write_nyu
from evaluations import evaluated, write_run

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.methods.dense.head_files import load_head
from dinoforge.evaluation.settings import DepthConfig, HeadConfig
from dinoforge.files import sha256_file
from dinoforge.steps import export_file

HEADS = ["v2-lin1", "v2-lin4", "v3-lin1", "v3-lin4"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth")
    return EvaluationConfig(
        checkpoint=str(write_run(root / "trained", steps=(0, 1))),
        baselines=[],
        sets={"toy": SetConfig(layout="nyu_tars", root=str(write_nyu(root / "toy")))},
        protocols=["depth"],
        device="cpu",
        depth=DepthConfig(
            size=[48, 48],
            heads=HEADS,
            head=HeadConfig(steps=60, batch_size=4, lr=0.1, seeds=[0, 1]),
            bins=64,
            upsample=1,
            loss_scale=8,
        ),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluated(config, folder)


def find(records, metric, model="trained"):
    return {
        r.settings.get("features", ""): r for r in records if (r.metric, r.model) == (metric, model)
    }


def test_heads_find_depths_that_medians_do_not(done):
    (median,) = find(done[1], "rmse", "median depth").values()
    (by_position,) = find(done[1], "rmse", "median per position").values()
    # Of 1, 3 and 5 m in equal shares: the median is 3, the error sqrt(8 / 3).
    assert median.value == pytest.approx(np.sqrt(8 / 3), abs=0.1)
    assert by_position.settings["baseline"] is True
    heads = find(done[1], "rmse")
    assert list(heads) == HEADS
    for name, record in heads.items():
        low, high = record.interval
        assert low <= record.value <= high < median.value - 0.5, name
        assert record.settings["deviation"] >= 0
        assert (record.settings["seeds"], record.settings["without_depth"]) == (2, 0)
    a1 = find(done[1], "a1")["v3-lin1"]
    assert a1.interval is None
    assert a1.value > find(done[1], "a1", "median depth")[""].value + 0.1


def test_models_are_paired_by_head(done):
    pairs = [r for r in done[1] if r.metric == "rmse_difference"]
    names = [(r.model, r.settings["features_a"]) for r in pairs]
    assert ("trained - untrained", "v2-lin4") in names
    assert len(names) == len(set(names)) == 4 * 4
    by_name = dict(zip(names, pairs, strict=True))
    assert by_name["trained - median depth", "v3-lin1"].interval[1] < 0


def test_a_head_is_kept_with_what_it_sees(config, done):
    folder = done[0] / "evaluation/42-depth"
    backbone = sha256_file(export_file(Path(config.checkpoint), 1))
    head, notes = load_head(folder / "part-00000.head-v2-lin1.safetensors", backbone=backbone)
    assert head.weight.shape == (64, 48)  # patches and class token
    assert (notes.class_token, notes.final_norm, notes.blocks) == (True, False, (0,))
    assert (notes.bins.count, notes.bins.max_depth) == (64, 10.0)
    head, _ = load_head(folder / "part-00000.head-v3-lin1.safetensors", backbone=backbone)
    assert head.weight.shape == (64, 24)
    with pytest.raises(UsageError, match="the head was trained on"):
        load_head(folder / "part-00000.head-v3-lin1.safetensors", backbone="0" * 64)


def test_the_flip_test_and_the_gradient_loss_change_the_depth(config, done, tmp_path):
    plain = replace(
        config.depth, heads=["v3-lin1"], flip=False, head=replace(config.depth.head, seeds=[0])
    )
    with_gradient = replace(plain, gradient_weight=0.5)
    records = [
        find(evaluated(replace(config, depth=depth), tmp_path / name), "rmse")["v3-lin1"]
        for name, depth in (("plain", plain), ("gradient", with_gradient))
    ]
    values = {record.value for record in [*records, find(done[1], "rmse")["v3-lin1"]]}
    assert len(values) == 3
    assert records[0].settings["flip"] is False
    assert max(values) < 1.4


@pytest.mark.parametrize("layout", ["nyu_depth", "kitti"])
def test_published_layouts(config, tmp_path, layout):
    root = write_depth(tmp_path / layout, layout, train=4, test=2)
    size = [176, 608] if layout == "kitti" else [48, 64]
    depth = replace(
        config.depth, heads=["v3-lin1"], size=size, head=HeadConfig(steps=30, batch_size=2, lr=0.1)
    )
    sets = {"toy": SetConfig(layout=layout, root=str(root))}
    records = evaluated(replace(config, sets=sets, depth=depth), tmp_path / "run")
    record = find(records, "rmse")["v3-lin1"]
    expected = ("kitti_garg", 80.0) if layout == "kitti" else ("nyu_eigen", 10.0)
    assert (record.settings["crop"], record.settings["max_depth"]) == expected
    assert record.settings["size"] == size
    assert record.value < find(records, "rmse", "median depth")[""].value


def test_images_without_a_depth_are_counted_and_left_out(config, tmp_path):
    root = write_depth(tmp_path / "toy", "nyu_depth", train=4, test=3)
    (root / "test/001.png").write_bytes(encode(np.zeros((48, 64), np.uint16)))
    depth = replace(config.depth, heads=["v3-lin1"], head=HeadConfig(steps=2, batch_size=2))
    sets = {"toy": SetConfig(layout="nyu_depth", root=str(root))}
    settings = replace(config, sets=sets, depth=depth)
    (record,) = find(evaluated(settings, tmp_path / "run"), "rmse", "median depth").values()
    assert (record.n, record.settings["without_depth"]) == (2, 1)
    assert np.isfinite(record.value)
