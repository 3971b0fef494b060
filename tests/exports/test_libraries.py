"""Folders for timm and transformers: no tensor missing, none left over, the same features."""

import json
import shutil

import pytest
import torch
from optional import optional
from safetensors.torch import load_file

from dinoforge.encoders.make import make_encoder
from dinoforge.exports.export import export_backbone
from dinoforge.models.huggingface import load_folder


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def timm():
    return optional("timm", "timm")


@pytest.fixture(scope="module")
def transformers():
    return optional("transformers", "hf")


TIMM = {"offset": {}, "registers": {}, "gated": {}, "odd": {"ffn_ratio": 3.3, "patch_size": 16}}


@pytest.mark.parametrize("name", TIMM)
def test_timm_opens_the_folder_with_every_tensor(timm, source, images, tokens, tmp_path, name):
    backbone = source(name, **TIMM[name])
    export_backbone(backbone, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert model.num_features == 32
    assert model.num_classes == 0
    facts = model.pretrained_cfg
    assert tuple(facts["input_size"]) == (3, 48, 48)
    assert list(facts["std"]) == [0.25, 0.3, 0.35]
    assert facts["license"] == "Apache-2.0"
    batch = images(48, 48)
    with torch.inference_mode():
        all_tokens = model.forward_features(batch)
        actual = model(batch), all_tokens[:, model.num_prefix_tokens :]
    assert_equal(actual, tokens(backbone, batch))


def test_timm_resamples_positions_as_a_backbone_with_registers(
    timm, source, images, tokens, tmp_path
):
    backbone = source("registers")
    exported = export_backbone(backbone, "timm", tmp_path / "out")
    assert all(one["expected"] for one in exported.differences)
    name, batch = f"local-dir:{tmp_path}/out", images(32, 72)
    model = timm.create_model(name, pretrained=True, dynamic_img_size=True).eval()
    with torch.inference_mode():
        actual = model(batch)
    assert_equal([actual], tokens(backbone, batch)[:1])


def test_timm_by_the_name_of_a_released_size_with_the_file(timm, source, images, tokens, tmp_path):
    small = {"width": 384, "depth": 12, "heads": 6, "patch_size": 14, "image_size": 28}
    backbone = source("registers", **small)
    export_backbone(backbone, "timm", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["architecture"] == "vit_small_patch14_reg4_dinov2"
    assert settings["model_args"] == {"img_size": 28}
    model = timm.create_model(
        settings["architecture"],
        img_size=28,
        num_classes=0,
        checkpoint_path=tmp_path / "out" / "model.safetensors",
    ).eval()
    batch = images(28, 28)
    with torch.inference_mode():
        assert_equal([model(batch)], tokens(backbone, batch)[:1])


def test_another_mode_of_positions_is_stated_and_measured(timm, source, tmp_path):
    exported = export_backbone(source("offset"), "timm", tmp_path / "out")
    assert (exported.positions, exported.resampled_as) == ("offset", "size_antialias")
    native, other = exported.differences[:2], exported.differences[2:]
    assert all(one["expected"] and one["relative"] <= 1e-5 for one in native)
    assert all(not one["expected"] and one["relative"] > 1e-3 for one in other)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["images"] == 8


def test_a_folder_of_timm_is_an_encoder(timm, stored, source, pictures, tmp_path):
    export_backbone(source("registers"), "timm", tmp_path / "a@b")
    checkpoint = make_encoder(f"checkpoint:{stored('registers')}")
    for option in ("", "#cls", "#patch_mean", "#both"):
        encoder = make_encoder(f"timm:{tmp_path}/a@b{option}")
        checkpoint = make_encoder(f"checkpoint:{stored('registers')}{option}")
        assert encoder.encode(pictures) == pytest.approx(checkpoint.encode(pictures), abs=1e-5)
        assert encoder.name == f"timm:{tmp_path}/a@b{option}"
    shutil.copytree(tmp_path / "a@b", tmp_path / "c")
    moved = make_encoder(f"timm:{tmp_path}/c#both")
    assert moved.fingerprint == encoder.fingerprint


HF = {
    "offset": "Dinov2Model",
    "gated": "Dinov2Model",
    "registers": "Dinov2WithRegistersModel",
    "antialias": "Dinov2WithRegistersModel",
    "rope": "DINOv3ViTModel",
    "rope_gated": "DINOv3ViTModel",
}


@pytest.mark.parametrize("name", HF)
def test_transformers_opens_the_folder_with_every_tensor(
    transformers, source, images, tokens, tmp_path, name
):
    backbone = source(name)
    exported = export_backbone(backbone, "hf", tmp_path)
    model, report = transformers.AutoModel.from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert type(model).__name__ == HF[name]
    assert not any(report.values())
    sizes = [(48, 48)] if exported.resampled_as != exported.positions else [(48, 48), (32, 72)]
    for height, width in sizes:
        batch = images(height, width)
        with torch.inference_mode():
            output = model.eval()(pixel_values=batch)
        patches = output.last_hidden_state[:, 1 + backbone.config.registers :]
        assert_equal((output.pooler_output, patches), tokens(backbone, batch))


@pytest.mark.parametrize("name", HF)
def test_the_folder_of_transformers_comes_back_as_it_was(transformers, source, tmp_path, name):
    backbone = source(name)
    export_backbone(backbone, "hf", tmp_path)
    model, config, _ = load_folder(tmp_path)
    batch = torch.ones(1, 3, 48, 48)
    with torch.inference_mode():
        assert_equal(
            model.forward_features(batch).values(),
            backbone.backbone.model.forward_features(batch).values(),
        )
    assert torch.equal(model.mask_token, backbone.backbone.model.mask_token)
    assert config.norm_eps == backbone.config.norm_eps


def test_the_processor_prepares_images_as_the_released_ones(transformers, source, tmp_path):
    export_backbone(source("registers"), "hf", tmp_path)
    processor = transformers.BitImageProcessor.from_pretrained(tmp_path)
    picture = torch.full((3, 100, 60), 255, dtype=torch.uint8)
    batch = processor(picture, return_tensors="pt")["pixel_values"]
    assert batch.shape == (1, 3, 48, 48)
    assert processor.size["shortest_edge"] == 55  # 256 for 224
    std = torch.tensor([0.25, 0.3, 0.35])
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / std
    assert_equal([batch[0, :, 24, 24]], [white])
