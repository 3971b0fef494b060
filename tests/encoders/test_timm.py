"""Models of timm: their vectors, weights from files and caches, and what is refused."""

import sys

import numpy as np
import pytest
import torch
from optional import optional
from safetensors.torch import load_file, save_file

from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import Transform
from dinoforge.errors import UsageError


def error_line(spec):
    with pytest.raises(UsageError) as caught:
        make_encoder(spec)
    (line,) = str(caught.value).splitlines()
    assert line.count(" - ") >= 2
    return line


def test_without_timm_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    line = error_line("timm:vit_small_patch14_dinov2@x.pth")
    assert "timm cannot be imported: " in line
    assert 'pip install "dinoforge[timm]", with a torchvision built for the installed torch' in line


@pytest.fixture(scope="module")
def timm():
    return optional("timm", "timm")


def write(timm, name, path, **changes):
    """Write random weights of a model with its classifier; return the model without it."""
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False, **changes)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tensors = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    save_file(tensors, path)
    whole.reset_classifier(0)
    return whole.eval()


def batch_of(model, images):
    facts = model.pretrained_cfg
    return Transform(facts["input_size"][1], facts["mean"], facts["std"]).batch(images, 10)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("test_vit", ""),
        ("test_vit", "#cls"),
        ("test_vit", "#patch_mean"),
        ("test_vit", "#both"),
        ("test_resnet", ""),
        ("test_convnext", ""),
    ],
)
def test_a_model_gives_its_tokens_or_what_it_pools(timm, tmp_path, pictures, name, option):
    path = tmp_path / "a@b.safetensors"
    model = write(timm, name, path)
    with torch.inference_mode():
        batch = batch_of(model, pictures)
        pooled, tokens = model(batch).numpy(), model.forward_features(batch).numpy()
    wanted = unit_rows(pooled)
    if option == "#patch_mean":
        wanted = unit_rows(tokens[:, 1:].mean(axis=1))
    if option == "#both":
        wanted = unit_rows(np.hstack([wanted, unit_rows(tokens[:, 1:].mean(axis=1))]))
    encoder = make_encoder(f"timm:{name}@{path}{option}")
    rows = encoder.encode(pictures)
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)
    assert np.array_equal(encoder.encode(pictures[4:5])[0], rows[4])
    assert encoder.name == f"timm:{name}@{path}{option}"
    assert make_encoder(encoder.name).fingerprint == encoder.fingerprint


def test_features_and_weights_are_part_of_the_fingerprint(timm, tmp_path):
    write(timm, "test_vit", tmp_path / "a.safetensors")
    specs = [f"timm:test_vit@{tmp_path}/a.safetensors{o}" for o in ("", "#cls", "#both")]
    fingerprints = [make_encoder(spec).fingerprint for spec in specs]
    assert len(set(fingerprints)) == 2  # "" is the class token
    write(timm, "test_vit", tmp_path / "a.safetensors", num_classes=7)
    assert make_encoder(specs[0]).fingerprint not in fingerprints


def test_pretrained_weights_are_those_of_the_local_cache(timm, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    line = error_line("timm:test_vit")
    assert "the pretrained weights are not on this machine; nothing is downloaded" in line
    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    path = folder / "snapshots" / "1" / "model.safetensors"
    write(timm, "test_vit", path)
    image = [np.zeros((32, 32, 3), np.uint8)]
    cached, named = (make_encoder(f"timm:test_vit{file}") for file in ("", f"@{path}"))
    assert cached.fingerprint == named.fingerprint
    assert np.array_equal(cached.encode(image), named.encode(image))


def test_other_names_weights_and_features_are_refused(timm, tmp_path):
    path = tmp_path / "a.safetensors"
    write(timm, "test_resnet", path)
    assert "(did you mean `test_vit`?)" in error_line("timm:test_vitt")
    assert "Invalid pretrained tag" in error_line(f"timm:test_resnet.no_tag@{path}")
    for name in ("hf-hub:timm/test_vit", "local-dir:/tmp", ""):
        assert f"timm has no model `{name}` - " in error_line(f"timm:{name}@{path}")
    assert "no such file - none.pth - " in error_line("timm:test_vit@none.pth")
    assert "the weights do not match the model: " in error_line(f"timm:test_vit@{path}")
    line = error_line(f"timm:test_resnet@{path}#patch_mean")
    assert "no features `patch_mean`: the model has no tokens" in line


def test_the_teacher_of_a_training_checkpoint_of_dino_opens(timm, tmp_path, pictures, caplog):
    path = tmp_path / "a.safetensors"
    write(timm, "test_vit", path)
    plain = make_encoder(f"timm:test_vit@{path}").encode(pictures)
    tensors = {f"backbone.{name}": tensor for name, tensor in load_file(path).items()}
    student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in tensors.items()}
    teacher = tensors | {"head.last_layer.weight_g": torch.ones(16, 1)}
    torch.save({"student": student, "teacher": teacher, "epoch": 1}, tmp_path / "full.pth")
    with caplog.at_level("INFO"):
        rows = make_encoder(f"timm:test_vit@{tmp_path}/full.pth").encode(pictures)
    np.testing.assert_array_equal(rows, plain)
    assert "1 tensors beside the backbone are left out: head.last_layer.weight_g" in caplog.text
