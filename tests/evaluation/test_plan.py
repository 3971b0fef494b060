"""What a plan of an evaluation states, against what a run of it extracts."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark_sets import write_nyu
from evaluations import evaluated
from searched_sets import write_oxford, write_scenes
from torch.utils.flop_counter import FlopCounterMode

from dinoforge.cli.main import main
from dinoforge.device import GPUS
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.plan import CORE_FLOPS, count_images, plan_extraction
from dinoforge.evaluation.settings import LinearConfig, LogisticConfig
from dinoforge.evaluation.settings.dense import HeadConfig, SegmentationConfig
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_operations_are_those_that_torch_counts(ffn):
    config = VitConfig(
        width=48, depth=3, heads=4, patch_size=8, image_size=48, registers=2, ffn=ffn, init="xavier"
    )
    model = build_vit(config).eval()
    model.set_attention("plain")  # torch does not count its fused attention on CPUs
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.forward_features(torch.zeros(1, 3, 48, 48))
    assert config.forward_flops(6 * 6) == counter.get_total_flops()


def test_partitions_and_bytes_are_those_of_the_run(pictures, run_folder, tmp_path):
    config = EvaluationConfig(
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        checkpoint=str(run_folder),
        protocols=["knn", "linear", "segmentation"],
        sets={"nyu": SetConfig(layout="nyu_tars", root=str(write_nyu(tmp_path / "nyu")))},
        partition_images=32,
        storage="float16",
        device="cpu",
        linear=LinearConfig(epochs=1, epoch_steps=2),
        logistic=LogisticConfig(c_count=1),
        segmentation=SegmentationConfig(
            size=[24, 32], blocks=[1], head=HeadConfig(steps=1, batch_size=2)
        ),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )
    images = count_images(config, tmp_path / "cache")
    assert images == {"test": 39 + 18, "nyu": 8 + 4}
    plans = plan_extraction(config, images, gpu=GPUS["h100"])
    assert [(p.model, p.data, p.partitions) for p in plans] == [
        ("trained", "test", 2),
        ("trained", "nyu", 6),
        ("untrained", "test", 2),
        ("untrained", "nyu", 6),
        ("pixels", "test", 2),
    ]
    evaluated(config, tmp_path / "run")
    folder = tmp_path / "run/evaluation/20-features"
    payloads = json.loads((folder / "plan.json").read_text())["payloads"]
    assert len(payloads) == sum(plan.partitions for plan in plans)
    files = [file for file in folder.glob("*.npy") if "grids" not in file.name]
    assert sum(np.load(file).nbytes for file in files) == sum(plan.bytes for plan in plans)


def test_counting_leaves_data_sets_as_they_are(tmp_path):
    root = write_oxford(tmp_path / "oxford")
    write_scenes(tmp_path / "more", {"a.jpg": 0, "b.jpg": 1})
    with tarfile.open(tmp_path / "more.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "more", "more")
    before = sorted(root.rglob("*"))
    one = SetConfig(layout="roxford5k", root=str(root), train=[str(tmp_path / "more.tar.gz")])
    alone = replace(one, train=[])
    config = EvaluationConfig(sets={"alone": alone, "more": one})
    images = count_images(config, tmp_path / "cache")
    assert images["more"] == images["alone"] + 2
    assert sorted(root.rglob("*")) == before


def test_hours_are_operations_over_the_rate(pictures):
    config = EvaluationConfig(train=[str(pictures / "bank")], protocols=["knn"])
    vit = VitConfig.named("large", patch_size=16)
    (plan,) = plan_extraction(config, {"bank": 1_281_167}, gpu=GPUS["h100"], share=0.5, vit=vit)
    assert plan.partitions == 1252
    assert plan.flops_per_image == pytest.approx(123e9, rel=0.02)  # 61.6 G multiply-adds
    assert plan.gpu_hours == pytest.approx(1_281_167 * plan.flops_per_image / 33.5e12 / 3600)
    assert plan.core_hours == pytest.approx(1_281_167 * plan.flops_per_image / CORE_FLOPS / 3600)
    unknown = replace(GPUS["h100"], float32=0.0)
    (plan,) = plan_extraction(config, {"bank": 1}, gpu=unknown, vit=vit)
    assert plan.gpu_hours is None


def test_the_command_plans_a_model_and_data_that_are_not_there(tmp_path, capsys):
    recipe = tmp_path / "imagenet.yaml"
    recipe.write_text("out: x\ntrain: [nowhere/train]\ntest: [nowhere/val]\nprotocols: [linear]\n")
    words = ["plan", str(recipe), "--model", "large/16", "--images", "1331167"]
    assert main([*words, "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["partitions"], plan["bytes_per_image"]) == (1300, 6 * 1024 * 4 + 1)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "1,300 partitions, 32.7 GB, 1.7 h100-hours at an assumed MFU of 0.4" in text
    assert main(["plan", str(recipe), "--model", "huge/16", "--images", "3"]) == 2
    assert "unknown model `huge/16`" in capsys.readouterr().err
    assert main([*words, "--gpu", "24"]) == 0
    assert "GB, - 24 GB-hours at" in capsys.readouterr().out  # of a GPU whose rate is not known
    assert main(["plan", str(recipe), "--model", "large/16"]) == 2
    assert "nowhere/train" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--images", "0"]) == 2
    assert "--images 0 - command line - give 1 or more" in capsys.readouterr().err


def test_a_recipe_of_either_kind_is_planned(capsys):
    assert main(["plan", "classification", "--model", "small/14", "--images", "10"]) == 0
    assert "imagenette" in capsys.readouterr().out
    words = ["plan", "quickstart", "--kind", "evaluation", "--model", "small/14", "train=[x]"]
    assert main([*words, "--images", "10", "out=x"]) == 0
    assert "decoding" in capsys.readouterr().out
