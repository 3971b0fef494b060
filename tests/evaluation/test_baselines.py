"""Every kind of encoder among the baselines of an evaluation."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from evaluations import evaluated, write_run
from optional import optional
from safetensors.torch import load_file, save_file
from torch import nn

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig
from dinoforge.evaluation.settings import KnnConfig
from dinoforge.exports.export import export_backbone
from dinoforge.exports.source import open_source
from dinoforge.files import sha256_file
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "dinov3"


@pytest.fixture
def evaluate(pictures, tmp_path):
    """Return the accuracy of every model and kind of features, and what its record names."""

    def run(*baselines, **changes):
        config = EvaluationConfig(
            name="colors",
            train=[str(pictures / "bank")],
            test=[str(pictures / "test")],
            baselines=list(baselines),
            protocols=["knn"],
            knn=KnnConfig(k=[5]),
            device="cpu",
            bootstrap=BootstrapConfig(resamples=100),
            **changes,
        )
        records = evaluated(config, tmp_path / "run")
        return {
            (r.model, r.settings.get("features")): (r.value, r.checkpoint)
            for r in records
            if r.metric == "accuracy" and " - " not in r.model
        }

    return run


def test_a_function_of_the_user(evaluate, tmp_path, monkeypatch):
    name = f"colors_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("def mean(x): return [i.mean(axis=(0, 1)) for i in x]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    values = evaluate(f"mean=python:{name}:mean", "pixels_centered")
    sys.modules.pop(name, None)
    accuracy, encoder = values["mean", "mean"]
    assert accuracy == 1
    assert encoder.startswith(f"python:{name}:mean:")


def test_a_folder_of_transformers_gives_every_kind_of_features(evaluate, tmp_path):
    folder = tmp_path / "dinov3"
    folder.mkdir()
    tensors = load_file(GOLDEN / "mlp.safetensors")
    weights = {n[8:]: t.float() for n, t in tensors.items() if n.startswith("weights/")}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((GOLDEN / "mlp.json").read_text())
    values = evaluate(f"all=hf:{folder}", f"mean=hf:{folder}#patch_mean,rope")
    assert {kind for name, kind in values if name == "all"} == {"cls", "patch_mean", "both"}
    assert values["mean", "patch_mean"] == values["all", "patch_mean"]
    digest = sha256_file(folder / "model.safetensors")[:12]
    assert {encoder for _, encoder in values.values()} == {f"dinov3:{digest}"}


def test_exports_for_timm_and_transformers_have_the_records_of_the_checkpoint(pictures, tmp_path):
    optional("timm", "timm")
    optional("transformers", "hf")
    run = write_run(tmp_path / "training", steps=(50,))
    for name in ("timm", "hf"):
        export_backbone(open_source(run), name, tmp_path / name)
    config = EvaluationConfig(
        name="colors",
        checkpoint=str(run),
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        baselines=[f"{name}={name}:{tmp_path / name}" for name in ("timm", "hf")],
        features=["cls"],
        protocols=["knn"],
        knn=KnnConfig(k=[1, 5, 10]),
        device="cpu",
        bootstrap=BootstrapConfig(resamples=100),
    )
    values = {}
    for record in evaluated(config, tmp_path / "run"):
        if record.metric == "accuracy":
            of_k = values.setdefault(record.model, {})
            of_k[record.settings["k"]] = record.value, record.interval
    assert values["trained"].keys() == {1, 5, 10}
    assert values["timm"] == values["hf"] == values["trained"]


def test_a_network_with_its_program(evaluate, tmp_path):
    layers = [nn.AvgPool2d(12), nn.Flatten()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Sequential(*layers)), str(tmp_path / "n.pt"))
    values = evaluate(f"squares=torchscript:{tmp_path}/n.pt#24")
    assert values["squares", "squares"][0] == 1


def test_the_mode_of_positions_changes_the_features(evaluate, tmp_path, caplog):
    # Images of 224 pixels are smaller than its grid.
    config = VitConfig(width=192, depth=1, heads=3, patch_size=16, image_size=240, layer_scale=1.0)
    path = tmp_path / "plain.safetensors"
    save_file(build_vit(config).state_dict(), path)
    with caplog.at_level("INFO"):
        evaluate(f"a=checkpoint:{path}#size_antialias", checkpoint=str(path), positions="offset")
    for mode in ("size_antialias", "offset"):
        assert caplog.text.count(f"{path}: positions: {mode} (named by the user)") == 1
    with pytest.raises(UsageError, match="positions `rope` contradict the file"):
        evaluate(checkpoint=str(path), positions="rope")
