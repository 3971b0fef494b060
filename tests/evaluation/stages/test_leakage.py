"""The leakage gate in the pipeline: copies of test images among what was trained on."""

import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
from evaluations import evaluated
from PIL import Image
from searched_sets import scene, write_copydays, write_groups, write_scenes

from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import KnnConfig, LeakageConfig, SplitConfig


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("leakage")
    groups, copydays = write_groups(root / "groups"), write_copydays(root / "copydays")
    pictures = {f"other_{n}.png": 100 + n for n in range(6)}
    write_scenes(root / "clean", pictures)
    leaked = {
        "exact.png": np.asarray(Image.open(groups / "c0/1.jpg")),
        "mirrored.png": np.asarray(Image.open(groups / "c1/2.jpg"))[:, ::-1],
        "cropped.png": scene(1, light=6)[1:-1, 2:],  # as in Copydays
    }
    write_scenes(root / "trained", pictures | leaked)
    return EvaluationConfig(
        baselines=["means=python:evaluations:mean_colors", "other=pixels"],
        sets={
            "groups": SetConfig(train=[str(groups)]),
            "copydays": SetConfig(layout="copydays", root=str(copydays)),
        },
        split=SplitConfig(mode="leave_one_out"),
        protocols=["knn", "copies"],
        knn=KnnConfig(k=[1]),
        leakage=LeakageConfig(curation=[str(root / "trained")]),
        partition_images=5,
        device="cpu",
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    return folder, evaluated(config, folder)


def pairs(folder):
    """Read set, test image in the set, file of the training image, similarity."""
    with (folder / "leaked.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (
            row["set"],
            row["test_image"].rpartition(f"{row['set']}/")[2],
            row["training_image"].rpartition("/")[2],
            float(row["similarity"]),
        )
        for row in rows
    ]


def test_copies_are_listed_with_what_shows_them(done):
    groups = [pair for pair in pairs(done[0]) if pair[0] == "groups"]
    # Another light of a scene is nearly a copy, too.
    assert ("groups", "c0/1.jpg", "exact.png") in [pair[:3] for pair in groups]
    assert ("groups", "c1/2.jpg", "mirrored.png") in [pair[:3] for pair in groups]
    assert {pair[1].partition("/")[0] for pair in groups} == {"c0", "c1"}
    assert all(similarity >= 0.925 for *_, similarity in groups)
    copydays = {pair[1:3] for pair in pairs(done[0]) if pair[0] == "copydays"}
    assert copydays == {("strong/200101.jpg", "cropped.png"), ("strong/200102.jpg", "cropped.png")}


def test_counts_are_recorded_per_set(done):
    counts = {r.benchmark: r for r in done[1] if r.metric == "leaked_images"}
    assert counts["leakage/copydays"].value == 2
    assert counts["leakage/copydays"].n == 6  # the copies; the originals are the bank
    settings = counts["leakage/groups"].settings
    assert (settings["encoder"], settings["threshold"]) == ("pixels", 0.925)
    assert settings["training_images"] == 9
    assert counts["leakage/groups"].value == len([p for p in pairs(done[0]) if p[0] == "groups"])


def test_the_score_without_them_stands_beside_the_score(done):
    by_metric = {
        r.metric: r for r in done[1] if r.benchmark == "copies/copydays" and r.model == "other"
    }
    for metric in ("micro_ap", "recall_at_1", "map"):
        record = by_metric[metric]
        assert record.value == 1.0
        assert record.settings["without_leaked"] == 1.0
        assert (record.settings["units_left"], record.settings["units_dropped"]) == (4, 2)
    dropped = int(next(r for r in done[1] if r.benchmark == "leakage/groups").value)
    for record in done[1]:
        if record.benchmark == "knn/groups":
            assert record.settings["units_dropped"] == dropped
            assert record.settings["units_left"] == 12 - dropped


def test_a_clean_pool_gives_none_and_the_features_stay(config, tmp_path, caplog):
    clean = config.leakage.curation[0].replace("trained", "clean")
    caplog.set_level(logging.INFO)
    records = evaluated(replace(config, leakage=LeakageConfig(curation=[clean])), tmp_path)
    assert pairs(tmp_path) == []
    assert {r.value for r in records if r.metric == "leaked_images"} == {0.0}
    scores = [r for r in records if r.metric != "leaked_images"]
    assert [r.settings["without_leaked"] for r in scores] == pytest.approx(
        [r.value for r in scores]
    )
    assert "groups: leaked: 0 of 12 test images, of 6 training images" in caplog.text


def test_without_training_images_nothing_is_said(config, tmp_path):
    records = evaluated(replace(config, leakage=LeakageConfig()), tmp_path)
    assert not (tmp_path / "leaked.csv").exists()
    assert not any("without_leaked" in r.settings for r in records)


def test_local_processes_find_the_same(config, done, tmp_path):
    assert evaluated(config, tmp_path, on="local:2") == done[1]
    assert (tmp_path / "leaked.csv").read_bytes() == (done[0] / "leaked.csv").read_bytes()
