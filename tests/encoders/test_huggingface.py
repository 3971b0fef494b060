"""Folders of transformers: the ViTs of DINO without the package, other networks by it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from optional import optional
from safetensors.torch import load_file, save_file

from dinoforge.encoders.backbone import open_backbone
from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import Transform
from dinoforge.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "dinov3"
PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}


@pytest.fixture
def folder(tmp_path):
    """A DINOv3 as `save_pretrained` writes it, with a processor."""
    tensors = load_file(GOLDEN / "mlp.safetensors")
    weights = {n[8:]: t.float() for n, t in tensors.items() if n.startswith("weights/")}
    path = tmp_path / "dinov3"
    path.mkdir()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text((GOLDEN / "mlp.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def error_line(path, options=""):
    with pytest.raises(UsageError) as caught:
        make_encoder(f"hf:{path}{options}")
    (line,) = str(caught.value).splitlines()
    assert line.count(" - ") >= 2
    return line


def test_a_folder_of_a_vit_gives_the_tokens_of_transformers(folder, caplog):
    with caplog.at_level("INFO"):
        model, config, _, _ = open_backbone(folder)
    assert f"{folder}: positions: rope (of the file)" in caplog.text
    assert (config.heads, config.norm_eps, config.image_size) == (3, 1e-5, 32)
    golden = load_file(GOLDEN / "mlp.safetensors")
    with torch.inference_mode():
        tokens = model.forward_features(golden["wide/images"])["x_norm_patchtokens"]
    torch.testing.assert_close(tokens, golden["wide/tokens"][:, 5:], rtol=0, atol=2e-5)


def test_a_folder_is_an_encoder_with_the_features_of_a_checkpoint(folder, picture):
    image = picture(32, 32, 3)
    model, _, _, _ = open_backbone(folder)
    batch = Transform(32, tuple(PROCESSOR["image_mean"]), tuple(PROCESSOR["image_std"]))
    with torch.inference_mode():
        outputs = model.forward_features(batch.batch([image], 1))
    expected = {
        "": outputs["x_norm_clstoken"],
        "#patch_mean": outputs["x_norm_patchtokens"].mean(dim=1),
        "#rope,cls": outputs["x_norm_clstoken"],
    }
    for option, rows in expected.items():
        vectors = make_encoder(f"hf:{folder}{option}").encode([image])
        np.testing.assert_allclose(vectors, unit_rows(rows.numpy()), rtol=0, atol=1e-5)


def test_the_fingerprint_follows_weights_settings_and_processor(folder):
    fingerprints = [make_encoder(f"hf:{folder}").fingerprint]
    edit(folder / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    fingerprints.append(make_encoder(f"hf:{folder}").fingerprint)
    edit(folder / "config.json", layer_norm_eps=1e-6)
    fingerprints.append(make_encoder(f"hf:{folder}").fingerprint)
    weights = load_file(folder / "model.safetensors")
    weights["norm.bias"] += 1
    save_file(weights, folder / "model.safetensors")
    fingerprints.append(make_encoder(f"hf:{folder}").fingerprint)
    assert len(set(fingerprints)) == 4


def test_weights_in_shards_are_read_together(folder):
    before = make_encoder(f"hf:{folder}").encode([np.zeros((32, 32, 3), np.uint8)])
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"shard-{at % 2}.safetensors" for at, name in enumerate(sorted(weights))}
    for shard in set(shards.values()):
        save_file({n: t for n, t in weights.items() if shards[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    after = make_encoder(f"hf:{folder}").encode([np.zeros((32, 32, 3), np.uint8)])
    assert np.array_equal(before, after)
    (folder / "shard-1.safetensors").unlink()
    assert f"no shard-1.safetensors - {folder}" in error_line(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    assert "the metadata `weight_map` of the weights are damaged" in error_line(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 10000.0}, "`rope_theta` is 10000.0"),
        ({"hidden_act": "relu"}, "`hidden_act` is relu"),
        ({"num_attention_heads": 5}, "the metadata `config.json` of the weights are damaged"),
        ({"num_attention_heads": None}, "the metadata `config.json` of the weights are damaged"),
        ({"layer_norm_eps": "small"}, "the metadata `config.json` of the weights are damaged"),
        ({"num_hidden_layers": 9}, "`num_hidden_layers` is 9, but the weights have "),
        ({"num_register_tokens": 1}, "`num_register_tokens` is 1, but the weights have "),
    ],
    ids=str,
)
def test_other_settings_than_those_of_our_vit_are_refused(folder, changes, message):
    edit(folder / "config.json", **changes)
    assert message in error_line(folder)


def test_what_is_no_folder_of_transformers_is_reported(folder, tmp_path):
    assert "positions `offset` contradict the file" in error_line(folder, "#offset")
    assert "no such folder - facebook/dinov2-small - " in error_line("facebook/dinov2-small")
    assert "nothing is downloaded" in error_line("facebook/dinov2-small")
    assert f"not a folder - {folder}/config.json" in error_line(folder / "config.json")
    assert "the folder has no config.json" in error_line(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors or pytorch_model.bin" in error_line(folder)
    (folder / "config.json").write_text("{")
    assert "damaged, or not JSON" in error_line(folder)
    (folder / "config.json").write_text("[]")
    assert "not a JSON object" in error_line(folder)


def test_another_network_needs_the_package_and_takes_no_option(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    edit(folder / "config.json", model_type="resnet")
    assert 'pip install "dinoforge[hf]"' in error_line(folder)
    assert "`patch_mean` is an option of the ViTs of DINO" in error_line(folder, "#patch_mean")


def test_code_of_a_folder_is_not_run(folder):
    optional("transformers", "hf")
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.C"})
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    assert "transformers cannot load the folder: " in error_line(folder)


def networks(transformers):
    """Small networks of four kinds, and the vector that each is to give."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = sizes | {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
    text = sizes | {"intermediate_size": 64, "vocab_size": 99, "projection_dim": 24}
    clip = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    vit = transformers.ViTConfig(**vision)
    return {
        "clip": (
            transformers.CLIPModel(clip),
            lambda m, x: m.get_image_features(pixel_values=x).pooler_output,
        ),
        "resnet": (transformers.ResNetModel(resnet), lambda m, x: m(x).pooler_output.flatten(1)),
        "vit": (transformers.ViTModel(vit), lambda m, x: m(x).pooler_output),
        "vit without pooler": (
            transformers.ViTModel(vit, add_pooling_layer=False),
            lambda m, x: m(x).last_hidden_state.mean(dim=1),
        ),
    }


@pytest.mark.parametrize("name", ["clip", "resnet", "vit", "vit without pooler"])
def test_other_networks_give_what_the_package_pools(tmp_path, pictures, name):
    transformers = optional("transformers", "hf")
    torch.manual_seed(0)
    model, pool = networks(transformers)[name]
    model.eval().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"size": 32}))
    encoder = make_encoder(f"hf:{tmp_path}")
    batch = Transform(32, tuple(PROCESSOR["image_mean"]), tuple(PROCESSOR["image_std"]))
    with torch.inference_mode():
        expected = pool(model, batch.batch(pictures, len(pictures))).numpy()
    vectors = encoder.encode(pictures)
    np.testing.assert_allclose(vectors, unit_rows(expected), rtol=0, atol=1e-5)
    assert np.array_equal(encoder.encode(pictures[3:4])[0], vectors[3])
    assert make_encoder(encoder.name).fingerprint == encoder.fingerprint
