"""The ViT in one file: our features at any size, as a module, in torch.hub, as a program."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from optional import optional

from dinoforge.encoders.make import make_encoder
from dinoforge.exports import programs, standalone
from dinoforge.exports.export import export_backbone
from dinoforge.exports.hub import entry_name
from dinoforge.exports.source import open_source, standalone_vit
from dinoforge.models.config import VitConfig

ROOT = Path(__file__).resolve().parents[2]
# Native; one axis native; larger and smaller; one row.
SHAPES = [(48, 48), (48, 56), (88, 24), (8, 200)]
NAMES = ["offset", "registers", "gated", "antialias", "rope", "rope_gated"]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        scale = float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_our_features_at_every_size(source, images, name):
    backbone = source(name)
    model, backbone_vit = standalone_vit(backbone), backbone.backbone.model
    for height, width in SHAPES:
        batch = images(height, width)
        masks = images(height, width)[:, 0, ::8, ::8].flatten(1) < 0
        with torch.inference_mode():
            for mask in (None, masks):
                actual, expected = (m.forward_features(batch, mask) for m in (model, backbone_vit))
                assert actual.keys() == expected.keys()
                assert_equal(actual.values(), expected.values())
            assert torch.equal(model(batch), model.forward_features(batch)["x_norm_clstoken"])


def test_it_has_the_intermediate_layers_of_dinov2(source, images):
    backbone = source("registers")
    model, backbone_vit = standalone_vit(backbone), backbone.backbone.model
    batch = images(48, 24)
    with torch.inference_mode():
        expected = backbone_vit.get_intermediate_layers(batch, [0, 1], norm=False, reshape=True)
        pairs = model.get_intermediate_layers(
            batch, [0, 1], reshape=True, return_class_token=True, norm=False
        )
        (last,) = model.get_intermediate_layers(batch)
        for pair, expected_pair in zip(pairs, expected, strict=True):
            assert_equal(pair, expected_pair)
        assert_equal([last], [backbone_vit.forward_features(batch)["x_norm_patchtokens"]])


def test_new_weights_are_random_and_train(source, images):
    torch.manual_seed(0)
    model = standalone.VisionTransformer(
        width=16, depth=1, heads=2, patch_size=8, hidden=32, gated=False, registers=1,
        layer_scale=1e-5, bias=True, grid=3, positions="offset", norm_eps=1e-6,
    )  # fmt: skip
    assert all(parameter.std() > 0 for parameter in (model.cls_token, model.pos_embed))
    model(images(32, 24)).square().sum().backward()
    assert model.pos_embed.grad.abs().sum() > 0


# Runs where dinoforge cannot be imported.
HUB = """
import json, sys, torch
sys.modules["dinoforge"] = None
folder, name, images = sys.argv[1:]
model = torch.hub.load(folder, name, source="local")
batch = torch.load(images)
with torch.inference_mode():
    outputs = model.forward_features(batch)
torch.save({"cls": model(batch), "patches": outputs["x_norm_patchtokens"]}, images)
fresh = torch.hub.load(folder, name, source="local", pretrained=False)
print(json.dumps([model.embed_dim, model.training, fresh.training]))
"""


def clone(folder, target):
    """Clone a folder with git, after adding it to a repository if it is none."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    try:
        if not (folder / ".git").exists():
            for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "export"]):
                subprocess.run([*git, *words], cwd=folder, check=True)
        subprocess.run([*git, "clone", "-q", folder, target], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    return target


@pytest.mark.parametrize(
    ("name", "entry"),
    [("rope_gated", "dinoforge_vit_d32x2_swiglu_patch8_reg4_rope"), ("offset", None)],
)
def test_torch_hub_opens_a_clone_without_dinoforge(source, images, tokens, tmp_path, name, entry):
    backbone = source(name)
    exported = export_backbone(backbone, "hub", tmp_path / "out")
    folder = clone(tmp_path / "out", tmp_path / "clone")
    entry = entry or "dinoforge_vit_d32x2_patch8"
    assert exported.use == f'torch.hub.load("FOLDER", "{entry}", source="local")'
    batch = images(32, 72)
    torch.save(batch, tmp_path / "batch")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUB, folder, entry, tmp_path / "batch"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [32, False, True]
    actual = torch.load(tmp_path / "batch")
    assert_equal(actual.values(), tokens(backbone, batch))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "dinoforge_vits14"),
        ({"registers": 4, "patch_size": 16}, "dinoforge_vits16_reg"),
        ({"registers": 14, "positions": "rope"}, "dinoforge_vits14_reg14_rope"),
    ],
)
def test_released_sizes_have_names_as_those_of_dinov2(changes, name):
    assert entry_name(VitConfig.named("small", **changes)) == name


def test_a_clone_of_the_project_opens_any_backbone(stored, source, images, tokens, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("the project is not a git repository here")
    folder = clone(ROOT, tmp_path / "clone")
    code = (
        "import sys, torch; "
        'model = torch.hub.load(sys.argv[1], "backbone", sys.argv[2], source="local"); '
        "import dinoforge; print(dinoforge.__file__); "
        "torch.save(model(torch.load(sys.argv[3])).detach(), sys.argv[3])"
    )
    torch.save(images(48, 48), tmp_path / "batch")
    words = [folder, stored("offset"), tmp_path / "batch"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(folder)
    expected = tokens(source("offset"), images(48, 48))[0]
    assert_equal([torch.load(tmp_path / "batch")], [expected])


def test_torchscript_is_an_encoder_and_has_all_tokens(stored, source, images, pictures, tmp_path):
    backbone = source("registers")
    export_backbone(backbone, "torchscript", tmp_path / "out")
    path = tmp_path / "out" / "model.pt"
    encoder = make_encoder(f"torchscript:{path}#48,crop")
    checkpoint = make_encoder(f"checkpoint:{stored('registers')}")
    assert encoder.encode(pictures) == pytest.approx(checkpoint.encode(pictures), abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        program = torch.jit.load(path)
    expected = backbone.backbone.model.forward_features(images(40, 72))
    assert_equal(program.forward_features(images(40, 72)).values(), expected.values())
    with pytest.raises(torch.jit.Error, match="50 x 48 pixels: not a multiple of 8 x 8"):
        program(images(50, 48))


# All ways to compute positions: with an offset and antialiasing, without both, rotary. One test
# per export, which takes ten seconds.
@pytest.mark.parametrize("name", ["antialias", "gated", "rope_gated"])
def test_onnx_takes_any_size_and_is_an_encoder_with_the_facts_of_the_backbone(
    stored, images, tokens, pictures, tmp_path, monkeypatch, name
):
    onnxruntime = optional("onnxruntime", "onnx")
    backbone, path = open_source(stored(name)), tmp_path / "out" / "model.onnx"
    if name == "gated":  # as a large model, whose weights are in a file of their own
        monkeypatch.setattr(programs, "_ONE_FILE", 0)
    export_backbone(backbone, "onnx", path.parent)
    assert path.with_name("model.onnx.data").is_file() == (name == "gated")
    session = onnxruntime.InferenceSession(str(path))
    registers = ["register_tokens"] if backbone.config.registers else []
    outputs = [output.name for output in session.get_outputs()]
    assert outputs == ["class_token", "patch_tokens", *registers]
    for count, (height, width) in enumerate(SHAPES, 1):
        batch = images(height, width, count)
        actual = [torch.from_numpy(out) for out in session.run(None, {"images": batch.numpy()})]
        assert_equal(actual[:2], tokens(backbone, batch))
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {"images": images(50, 48).numpy()})

    facts = session.get_modelmeta().custom_metadata_map
    assert facts["positions"] == backbone.config.positions
    assert (facts["image_size"], facts["patch_size"], facts["step"]) == ("48", "8", "7")
    assert json.loads(facts["image_std"]) == [0.25, 0.3, 0.35]
    encoder = make_encoder(f"onnx:{path}#48,crop")
    checkpoint = make_encoder(f"checkpoint:{stored(name)}")
    assert encoder.encode(pictures) == pytest.approx(checkpoint.encode(pictures), abs=1e-5)
