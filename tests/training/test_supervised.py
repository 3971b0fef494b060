"""A classifier of labeled images, from drawn weights or those of an earlier training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.models.reading import read_tensors
from dinoforge.steps import export_file
from dinoforge.training.build import build_method
from dinoforge.training.data.dataset import open_training_data
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.loop import train

SUPPORT = ("support.classes=2", "support.images=2", "support.views=2", "data.num_workers=0")
WIDE = ("model.architecture=wrn10_1", "crops.global_size=8", "crops.local_size=4")
PAWS = ("method=paws", "paws.hidden=16", "paws.width=8", *SUPPORT, *WIDE)
SUPERVISED = ("method=supervised", "batch_size=1", "crops.num_local=0", *SUPPORT, *WIDE)


@pytest.fixture
def labeled(tmp_path):
    """Ten pictures in two folders: noise that is redder, and noise that is bluer."""
    generator = np.random.default_rng(0)
    for number in range(10):
        pixels = generator.integers(0, 200, (24, 24, 3), np.uint8)
        pixels[..., 2 * (number % 2)] += 55
        folder = tmp_path / "classes" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return f"support.paths=['{tmp_path / 'classes'}']"


def test_labels_are_learned(tiny, labeled):
    plain = ("crops.jitter_prob=0", "crops.grayscale_prob=0", "crops.blur=custom")
    plain += ("crops.custom_blur_probs=[0, 0, 0]", "crops.solarize_prob=0")
    config = tiny(*SUPERVISED, *plain, labeled, "steps=30", "log_every=30", "checkpoint.every=30")
    summary = train(config, Path(config.out))
    assert summary.last["predictions/accuracy"] == 1
    assert summary.last["loss/total"] < 0.6
    assert summary.lines()[0].startswith("30 steps on 10 images and 10 labeled images, ")


def test_the_first_scores_are_those_of_no_class(tiny, labeled):
    method = build_method(tiny(*SUPERVISED, labeled))
    linear = method.student["linear"]
    assert linear.weight.shape == (2, 64)
    assert not linear.weight.any()
    assert not linear.bias.any()


def test_classes_are_numbered_by_their_labels_in_every_step(tiny, labeled, tmp_path):
    data = open_training_data(
        tiny(*SUPERVISED, labeled), tmp_path, RankInfo(0, 1, 0, 1), torch.device("cpu")
    )
    names = data.images.table["class_name"].to_pylist()
    support = data._cutter.support
    for step in range(4):
        images, classes = support.locate(step)
        assert [names[image] for image in images] == ["ab"[c] for c in classes]


@pytest.mark.parametrize("method", [SUPERVISED, (*PAWS, "method=suncet", "paws.contrastive=0")])
def test_a_training_starts_from_the_weights_of_another(tiny, labeled, method):
    config = tiny(*PAWS, labeled, "steps=2", out="first")
    train(config, Path(config.out))
    changes = (*method, labeled, "start.freeze_statistics=true", "optimizer.lr=1e-30")
    for where in ("first", "first/export/step-000000002/model.safetensors"):
        weights = f"start.weights={Path(config.out).parent / where}"
        tuned = build_method(tiny(*changes, weights))
        stored, _ = read_tensors(export_file(Path(config.out), 2))
        for name, tensor in tuned.student["backbone"].state_dict().items():
            torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
    tuned = tiny(*changes, weights, "steps=1", out="second")
    train(tuned, Path(tuned.out))
    second, _ = read_tensors(export_file(Path(tuned.out), 1))
    for name, tensor in second.items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0, msg=name)


def test_heads_are_taken_over(tiny, labeled, caplog):
    config = tiny(*PAWS, labeled, "steps=2", out="first")
    train(config, Path(config.out))
    again = build_method(tiny(*PAWS, labeled, f"start.weights={config.out}"))
    stored, _ = read_tensors(export_file(Path(config.out), 2).with_name("heads.safetensors"))
    for name, tensor in again.student["projection"].state_dict().items():
        torch.testing.assert_close(tensor, stored[f"projection.{name}"], rtol=0, atol=0)
    with pytest.raises(UsageError, match=r"projection\.fc3\.bias: file"):
        build_method(tiny(*PAWS, labeled, f"start.weights={config.out}", "paws.width=12"))
    with caplog.at_level("INFO"):
        build_method(tiny(*SUPERVISED, labeled, f"start.weights={config.out}"))
    assert "has no linear: its weights are drawn" in caplog.text
    assert "projection of " in caplog.text


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (("model.architecture=wrn10_2", "start.weights={run}"), "do not match|has the shape|shape"),
        (("start.weights={run}/none.pth",), "no weights in .*none.pth"),
        (("start.freeze_statistics=true",), "without `start.weights`"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tiny, labeled, changes, reported):
    first = tiny(*SUPERVISED, labeled, "steps=1", out="first")
    train(first, Path(first.out))
    with pytest.raises(UsageError, match=reported) as caught:
        build_method(tiny(*SUPERVISED, labeled, *(c.format(run=first.out) for c in changes)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_step_without_all_classes_is_refused(tiny, labeled, tmp_path):
    config = tiny(*SUPERVISED, labeled, "support.classes=1")
    with pytest.raises(UsageError, match="1 of 2 classes"):
        open_training_data(config, tmp_path, RankInfo(0, 1, 0, 1), torch.device("cpu"))
