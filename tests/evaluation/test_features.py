"""Extraction in partitions: each once for all runs that share a cache, whatever stops them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluations import evaluated
from PIL import Image

import dinoforge.evaluation.stages.features as stage
from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import describe, open_extractor, rows_of
from dinoforge.evaluation.models import find_models
from dinoforge.evaluation.settings import KnnConfig
from dinoforge.evaluation.suite import STAGES
from dinoforge.evaluation.tables import read_features, read_items, read_models
from dinoforge.models.pooled.building import build_pooled
from dinoforge.models.pooled.files import save_pooled
from dinoforge.sources.image_set import open_images
from dinoforge.stages import make_inputs
from dinoforge.steps import export_file


@pytest.fixture
def bank(pictures, tmp_path):
    return open_images([str(pictures / "bank")], cache=tmp_path)


@pytest.fixture
def config(pictures, tmp_path):
    """39 and 18 images, in partitions of ten."""
    return EvaluationConfig(
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        protocols=["knn"],
        knn=KnnConfig(k=[5]),
        device="cpu",
        partition_images=10,
        cache=str(tmp_path / "cache"),
    )


@pytest.fixture
def seen(monkeypatch):
    """Count the images that are described; with `stop_after`, be interrupted then."""
    counts = {"images": 0, "stop_after": 1_000}

    def counting(extractor, images, *others, **settings):
        if counts["images"] >= counts["stop_after"]:
            raise KeyboardInterrupt
        counts["images"] += len(images)
        return describe(extractor, images, *others, **settings)

    monkeypatch.setattr(stage, "describe", counting)
    return counts


def trained(run_folder, **more):
    return find_models(EvaluationConfig(checkpoint=str(run_folder), **more))[0]


def read(config, folder, model=0):
    """What the stages of a run know of its only data set."""
    inputs = make_inputs("evaluation", STAGES, folder, config)
    items, extracted = read_items(inputs, 0), read_features(inputs, model, 0)
    return items, extracted, rows_of(read_models(inputs)[model], items, extracted)


def test_runs_that_share_a_cache_extract_once(config, tmp_path, seen):
    first = evaluated(config, tmp_path / "one")
    assert seen["images"] == 39 + 18
    assert evaluated(config, tmp_path / "two") == first
    assert seen["images"] == 39 + 18
    shutil.rmtree(tmp_path / "one" / "evaluation")  # the cache stays whole without the run
    evaluated(config, tmp_path / "one")
    assert seen["images"] == 39 + 18


def test_a_killed_extraction_goes_on_after_its_last_partition(config, tmp_path, seen):
    seen["stop_after"] = 20
    with pytest.raises(KeyboardInterrupt):
        evaluated(config, tmp_path / "run")
    seen["stop_after"] = 1_000
    cut = evaluated(config, tmp_path / "run")
    assert seen["images"] == 39 + 18
    assert evaluated(replace(config, cache=str(tmp_path / "other")), tmp_path / "whole") == cut


@pytest.mark.parametrize("damage", ["empty", "shorter", "gone", "no sums"])
def test_a_damaged_part_of_the_cache_is_made_again(config, tmp_path, seen, damage):
    first = evaluated(config, tmp_path / "one")
    part = sorted(path.parent for path in (tmp_path / "cache").rglob("vectors.npy"))[1]
    size = len(np.load(part / "is_decoded.npy"))
    if damage == "no sums":
        (part / "arrays.json").unlink()
    else:
        data = (part / "vectors.npy").read_bytes()
        (part / "vectors.npy").unlink()  # has a second name in the run
        if damage != "gone":
            (part / "vectors.npy").write_bytes(data[:-7] if damage == "shorter" else b"")
    assert evaluated(config, tmp_path / "two") == first
    assert seen["images"] == 39 + 18 + size


def test_other_images_and_other_models_are_described(config, pictures, tmp_path, seen):
    evaluated(replace(config, test=[]), tmp_path / "one")
    assert seen["images"] == 39
    evaluated(replace(config, baselines=["pixels_raw"], test=[]), tmp_path / "two")
    assert seen["images"] == 2 * 39
    evaluated(replace(config, train=[str(pictures / "test")], test=[]), tmp_path / "three")
    assert seen["images"] == 2 * 39 + 18


def test_one_forward_pass_gives_what_each_encoder_gives(bank, run_folder):
    model = trained(run_folder)
    result = describe(open_extractor(model, device="cpu"), bank)
    pictures = [bank.decode(index) for index in range(len(bank))]
    from dinoforge.encoders.checkpoint import FEATURES

    for kind in model.features:
        encoder = make_encoder(f"checkpoint:{model.file}#{kind}")
        actual = unit_rows(FEATURES[kind](result))
        np.testing.assert_array_equal(actual, encoder.encode(pictures))
        assert actual.shape[1] == encoder.dim
    norms = np.linalg.norm(result["cls"], axis=1)
    assert (abs(norms - 1) > 0.1).all()  # as the network gives them


def test_undecodable_images_are_left_out_and_the_others_stay_in_place(config, pictures, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(pictures / "bank", folder)
    for name in ("blue/blue-003.png", "red/red-012.png"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    config = replace(config, train=[str(folder)])
    evaluated(config, tmp_path / "run")
    _, extracted, (bank, test) = read(config, tmp_path / "run")
    assert (len(bank), len(test)) == (37, 18)
    assert np.flatnonzero(~extracted.is_decoded).tolist() == [3, 38]
    assert np.bincount(bank.labels).tolist() == [13, 12, 12]
    encoder = make_encoder("pixels_centered")
    image = np.asarray(Image.open(folder / "blue" / "blue-004.png"))
    np.testing.assert_array_equal(bank.features["pixels"][3], encoder.encode([image])[0])


def test_raw_pixels_are_taken_less_the_mean_of_the_bank(config, tmp_path):
    config = replace(config, baselines=["pixels_raw"])
    evaluated(config, tmp_path / "run")
    items, extracted, (bank, test) = read(config, tmp_path / "run")
    np.testing.assert_allclose(bank.features["pixels_less_mean"].mean(axis=0), 0, atol=1e-6)
    raw = extracted.vectors["vectors"]
    shifted = raw[items.test] - raw[items.bank].mean(axis=0)
    np.testing.assert_allclose(test.features["pixels_less_mean"], shifted, atol=1e-6)


def test_the_size_of_a_batch_changes_the_last_bits_only(bank, run_folder):
    model = trained(run_folder)
    one, other = (
        describe(open_extractor(model, device="cpu", batch_size=size), bank) for size in (0, 7)
    )
    np.testing.assert_allclose(one["cls"], other["cls"], atol=1e-5)


@pytest.fixture
def network_run(tmp_path):
    """A training run of a network without patch tokens, at steps 0 and 50."""
    for step in (0, 50):
        network = build_pooled("wrn28_2")
        network.init_weights(step)
        path = export_file(tmp_path / "run", step)
        save_pooled(path, network, network.state_dict(), {"image_size": "24", "step": str(step)})
    return tmp_path / "run"


def test_a_network_without_tokens_is_measured_by_its_only_vector(config, tmp_path, network_run):
    head = {"module.linear.weight": torch.eye(3, 128), "module.linear.bias": torch.zeros(3)}
    torch.save({"state_dict": head}, tmp_path / "head.pth")
    linear = replace(config.linear_v1, weights=str(tmp_path / "head.pth"))
    measured = {"protocols": ["knn", "linear_v1"], "linear_v1": linear}
    config = replace(config, checkpoint=str(network_run), baselines=[], **measured)
    assert [m.features for m in find_models(config)] == [("pooled",)] * 2
    records = evaluated(config, tmp_path / "run")
    scores = [r for r in records if r.benchmark.startswith("knn") and r.metric == "accuracy"]
    assert {(r.model, r.settings["step"]) for r in scores} == {("trained", 50), ("untrained", 0)}
    assert {r.settings["features"] for r in scores} == {"pooled"}
    _, extracted, (bank, _) = read(config, tmp_path / "run")
    encoder = make_encoder(f"checkpoint:{export_file(network_run, 50)}")
    bank_images = open_images(config.train, cache=tmp_path)
    images = [decode() for _, decode in bank_images.decoders_of(range(len(bank_images)))]
    assert encoder.transform.side == 24
    np.testing.assert_allclose(
        unit_rows(bank.features["pooled"]), encoder.encode(images), atol=1e-5
    )
    # A given head reads the vector as it is, and nothing is trained.
    items, extracted, (_, test) = read(config, tmp_path / "run")
    wanted = test.features["pooled"][:, :3].argmax(axis=1) == items.labels[test.rows]
    (linear,) = (r for r in records if r.benchmark.startswith("linear_v1") and r.model == "trained")
    assert linear.value == pytest.approx(wanted.mean())
    assert linear.settings["training"] == "the head head.pth"
    assert extracted.vectors.keys() == {"vectors"}
