"""Backbones on disk: what we write loads as it was, and so do the files of others."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.reading import read_tensors
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import load_backbone, save_backbone


def make(seed=0, **changes):
    """A narrow net with random values everywhere: initial ones hide mistakes behind zeros."""
    sizes = {"width": 64, "depth": 3, "heads": 2, "patch_size": 7, "image_size": 28}
    model = build_vit(VitConfig(**(sizes | changes)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def features(model, size=42):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.forward_features(images)["x_prenorm"]


def chunked(tensors):
    return {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name): t for name, t in tensors.items()}


def timm_names(model):
    """What timm's converter makes of released weights (its names, no mask token)."""
    tensors = dict(model.state_dict())
    del tensors["mask_token"]
    if "register_tokens" in tensors:
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    return {n.replace("w12", "fc1").replace("w3", "fc2"): t for n, t in tensors.items()}


def transformers_names(model):
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^blocks\.", "encoder.layer.", name)  # noqa: PLW2901
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            for part, values in parts:
                tensors[name.replace("attn.qkv", f"attention.attention.{part}")] = values
            continue
        for actual, reference in (
            (r"^norm\.", "layernorm."),
            (r"^pos_embed$", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
            (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
            (r"\.mlp\.w12\.", ".mlp.weights_in."),
            (r"\.mlp\.w3\.", ".mlp.weights_out."),
        ):
            name = re.sub(actual, reference, name)  # noqa: PLW2901
        tensors[name] = tensor
    return tensors


VARIANTS = [
    {},
    {"registers": 4, "positions": "size_antialias"},
    {"ffn": "swiglu"},
    {"bias": False, "layer_scale": 0.0},
    {"positions": "offset_antialias"},
    {"positions": "rope", "norm_eps": 1e-5, "registers": 2},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_what_is_saved_loads_as_it_was(tmp_path, changes):
    model = make(**changes)
    save_backbone(tmp_path / "a.safetensors", model, {"step": "7"})
    loaded, config, notes = load_backbone(tmp_path / "a.safetensors")
    assert config == model.config
    assert notes["step"] == "7"
    assert not loaded.training
    assert torch.equal(features(loaded), features(model))


def test_equal_weights_are_equal_bytes_and_names_those_of_the_release(tmp_path):
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_backbone(path, make(), {"run": "x", "step": "7"})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_file(paths[0]).keys() == make().state_dict().keys()


def write(path, tensors):
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("changes", VARIANTS[:3], ids=str)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_files_load_without_our_metadata(tmp_path, changes, suffix):
    model = make(**changes)
    for name, tensors in (("plain", model.state_dict()), ("chunked", chunked(model.state_dict()))):
        path = write(tmp_path / f"{name}{suffix}", tensors)
        loaded, config, _ = load_backbone(path, heads=2)
        assert config.positions == ("size_antialias" if config.registers else "offset")
        assert torch.equal(features(loaded), features(model))


def test_the_heads_of_released_widths_are_known(tmp_path):
    model = make(width=384, heads=6, depth=1)
    loaded, config, _ = load_backbone(write(tmp_path / "s.pth", model.state_dict()))
    assert config.heads == 6
    assert torch.equal(features(loaded), features(model))


def test_the_teacher_is_taken_out_of_a_training_checkpoint(tmp_path):
    teacher, student = make(seed=0), make(seed=1)
    tensors = {f"teacher.backbone.{n}": t for n, t in chunked(teacher.state_dict()).items()}
    tensors |= {f"student.module.backbone.{n}": t for n, t in student.state_dict().items()}
    tensors["teacher.dino_head.last_layer.weight_v"] = torch.ones(2, 2)
    loaded, _, _ = load_backbone(write(tmp_path / "t.pth", tensors), heads=2)
    assert torch.equal(features(loaded), features(teacher))


@pytest.mark.parametrize("key", ["teacher", "model", "state_dict"])
def test_state_dicts_one_level_down_are_found(tmp_path, key):
    model = make()
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({key: tensors, "step": 5}, tmp_path / "nested.pt")
    loaded, _, _ = load_backbone(tmp_path / "nested.pt", heads=2)
    assert torch.equal(features(loaded), features(model))


@pytest.mark.parametrize("changes", VARIANTS[:3], ids=str)
def test_files_with_the_names_of_timm(tmp_path, changes):
    model = make(**changes | {"positions": "size_antialias"})
    path = write(tmp_path / "timm.safetensors", timm_names(model))
    loaded, config, _ = load_backbone(path, heads=2)
    assert config.positions == "size_antialias"
    assert not loaded.mask_token.any()
    torch.testing.assert_close(features(loaded), features(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"ffn": "swiglu"}], ids=str)
def test_files_with_the_names_of_transformers(tmp_path, changes):
    model = make(**changes | {"positions": "size"})
    path = write(tmp_path / "hf.safetensors", transformers_names(model))
    loaded, config, _ = load_backbone(path, heads=2)
    assert config.positions == "size"
    assert torch.equal(features(loaded), features(model))


def test_files_of_dino_have_no_mask_token_and_no_layer_scale(tmp_path, caplog):
    model = make(layer_scale=0.0)
    tensors = {n: t for n, t in model.state_dict().items() if n != "mask_token"}
    with caplog.at_level("INFO"):
        loaded, config, _ = load_backbone(write(tmp_path / "dino.pth", tensors), heads=2)
    assert config.positions == "offset"
    assert "positions: offset (assumed for DINO files)" in caplog.text
    assert torch.equal(features(loaded), features(model))


def test_the_mode_of_positions_is_named_for_a_file_that_does_not_say_it(tmp_path, caplog):
    path = write(tmp_path / "plain.pth", make().state_dict())
    with caplog.at_level("INFO"):
        load_backbone(path, heads=2)
        for _ in range(2):
            loaded, config, _ = load_backbone(path, heads=2, positions="size_antialias")
    assert config.positions == "size_antialias"
    assert (features(loaded) - features(make())).abs().max() > 1e-3
    assert f"{path}: positions: offset (assumed for DINOv2 files)" in caplog.text
    assert caplog.text.count(f"{path}: positions: size_antialias (named by the user)") == 1


def test_the_mode_of_positions_in_a_file_is_not_overruled(tmp_path, caplog):
    path = tmp_path / "a.safetensors"
    save_backbone(path, make(positions="size"))
    with caplog.at_level("INFO"):
        assert load_backbone(path)[1] == load_backbone(path, positions="size")[1]
    assert f"{path}: positions: size (of the file)" in caplog.text
    with pytest.raises(UsageError, match="positions `offset` contradict the file, whose"):
        load_backbone(path, positions="offset")


# What does not fit


def refused(path, match, **options):
    with pytest.raises(UsageError, match=match) as caught:
        load_backbone(path, **options)
    (line,) = str(caught.value).splitlines()
    assert str(path) in line


def test_a_partial_match_is_an_error_that_names_what_differs(tmp_path):
    tensors = make().state_dict()
    del tensors["blocks.1.attn.proj.bias"]
    tensors["blocks.1.extra"] = torch.ones(1)
    tensors["norm.weight"] = torch.ones(5)
    path = write(tmp_path / "partial.pth", tensors)
    refused(path, r"1 missing \(blocks\.1\.attn\.proj\.bias\)", heads=2)
    refused(path, r"1 unexpected \(blocks\.1\.extra\)", heads=2)
    refused(path, r"norm\.weight: file \[5\], model \[64\]", heads=2)


def test_several_backbones_without_a_teacher_are_refused(tmp_path):
    tensors = {f"{part}.{n}": t for part in ("a", "b") for n, t in make().state_dict().items()}
    refused(write(tmp_path / "two.pth", tensors), "several backbones: a., b.")


def test_an_unknown_width_asks_for_the_heads(tmp_path):
    path = write(tmp_path / "narrow.pth", make().state_dict())
    refused(path, r"no released ViT has width 64.*load_backbone\(path, heads=\.\.\.\)")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"weight": torch.ones(2, 2)}, "no ViT among 1 tensors"),
        (
            {"patch_embed.proj.weight": torch.ones(2, 3, 7, 7)},
            "no cls_token, blocks.0.norm1.weight, pos_embed",
        ),
    ],
)
def test_other_networks_are_refused(tmp_path, content, match):
    refused(write(tmp_path / "other.pth", content), match)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("blocks.x.weight", torch.ones(1), r"1 unexpected \(blocks\.x\.weight\)"),
        ("blocks.0.mlp.fc1.weight", torch.tensor(1.0), r"no blocks\.0\.mlp\.fc1\.weight"),
        ("pos_embed", torch.ones(1, 0, 64), r"pos_embed: file \[1, 0, 64\]"),
    ],
)
def test_tensors_of_odd_names_and_shapes_are_named(tmp_path, name, value, match):
    refused(write(tmp_path / "odd.pth", make().state_dict() | {name: value}), match, heads=2)


def test_projections_that_do_not_belong_together_are_refused(tmp_path):
    tensors = transformers_names(make())
    tensors["encoder.layer.0.attention.attention.key.weight"] = torch.ones(3, 5)
    refused(write(tmp_path / "odd.pth", tensors), "not the tensors of a ViT: Sizes of tensors")


def test_a_file_that_holds_no_state_dict_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    refused(tmp_path / "tensor.pt", "has no state dict")


@pytest.mark.parametrize("name", ["gone.pth", "garbage.pth", "garbage.safetensors"])
def test_unreadable_files_are_reported_in_one_line(tmp_path, name):
    if "garbage" in name:
        (tmp_path / name).write_bytes(b"not weights at all" * 9)
    refused(tmp_path / name, "weights unreadable")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"bomb": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UsageError, match="weights unreadable"):
        read_tensors(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_a_file_of_a_later_version_states_what_is_new(tmp_path):
    path = tmp_path / "a.safetensors"
    save_backbone(path, make())
    tensors = load_file(path)
    later = json.dumps({"width": 64, "rope": True})
    save_file(tensors, path, {"dinoforge": "backbone-1", "config": later})
    refused(path, "another version of dinoforge, with rope")
    save_file(tensors, path, {"dinoforge": "backbone-2", "config": "{}"})
    refused(path, "another version of dinoforge, with backbone-2")


@pytest.mark.parametrize(
    "config", [None, "", "{", "[1]", '{"width": "wide"}', '{"width": 64, "heads": 3}']
)
def test_metadata_that_make_no_sense_are_named(tmp_path, config):
    path = tmp_path / "a.safetensors"
    save_backbone(path, make())
    metadata = {"dinoforge": "backbone-1"} | ({} if config is None else {"config": config})
    save_file(load_file(path), path, metadata)
    refused(path, "the metadata `config` of the weights are damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_refused(tmp_path, value):
    path, model = tmp_path / "a.safetensors", make()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[3, 4] = value
    save_backbone(path, model)
    refused(path, r"1 of \d+ weights are not finite \(blocks.1.mlp.fc1.weight\)")
