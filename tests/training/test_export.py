"""The exported backbone: names of the release, loads here and in timm, equal features."""

import json

import pytest
import torch
from optional import optional
from safetensors import safe_open

from dinoforge.errors import UsageError
from dinoforge.models.pooled.heads import open_heads
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import load_backbone
from dinoforge.training.build import build_method
from dinoforge.training.export import gather_backbone, gather_tensors, write_backbone
from dinoforge.training.updates import update_teacher


@pytest.fixture
def method(tiny):
    """A teacher that differs from its student."""
    made = build_method(tiny())
    with torch.no_grad():
        for parameter in made.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    update_teacher(made.teacher, made.student, 0.5)
    return made


def export_backbone(folder, step, method, config):
    return write_backbone(folder, step, gather_backbone(method), config)


def images(size=28):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_teacher_is_exported_with_the_names_of_the_release(tiny, tmp_path, method):
    path = export_backbone(tmp_path, 7, method, tiny())
    assert path == tmp_path / "export" / "step-000000007" / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        result, notes = set(file.keys()), file.metadata()
    block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    wanted = {f"blocks.{i}.{n}.{p}" for i in (0, 1) for n in block for p in ("weight", "bias")}
    wanted |= {f"blocks.{i}.{n}.gamma" for i in (0, 1) for n in ("ls1", "ls2")}
    wanted |= {"cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias"}
    wanted |= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert result == wanted
    assert notes["step"] == "7"
    assert notes["positions"] == "offset"
    assert json.loads(notes["config"])["width"] == 16


@pytest.mark.parametrize("size", [28, 42])
def test_it_loads_here_and_gives_the_features_of_the_teacher(tiny, tmp_path, method, size):
    path = export_backbone(tmp_path, 7, method, tiny())
    model, config, _ = load_backbone(path)
    backbone = method.teacher["backbone"]
    assert isinstance(backbone, VisionTransformer)
    assert config == backbone.config
    backbone.set_attention("sdpa")  # what a loaded backbone uses: equal bits
    with torch.no_grad():
        result, wanted = model(images(size)), backbone(images(size))
        student = method.student["backbone"](images(size))
    assert torch.equal(result, wanted)
    assert not torch.equal(result, student)


def test_equal_weights_give_equal_bytes(tiny, tmp_path, method):
    first = export_backbone(tmp_path / "a", 7, method, tiny())
    second = export_backbone(tmp_path / "b", 7, method, tiny())
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("registers", [0, 4])
def test_it_loads_in_timm_and_gives_the_same_features(tiny, tmp_path, registers):
    vision_transformer = optional("timm.models.vision_transformer", "timm")
    config = tiny(f"model.registers={registers}")
    method = build_method(config)
    path = export_backbone(tmp_path, 1, method, config)
    reference = vision_transformer.VisionTransformer(
        img_size=28,
        patch_size=7,
        embed_dim=16,
        depth=2,
        num_heads=2,
        init_values=1e-5,
        num_classes=0,
        reg_tokens=registers,
        no_embed_class=registers > 0,
    )
    actual, _, _ = load_backbone(path)
    tensors = vision_transformer.checkpoint_filter_fn(actual.state_dict(), reference)
    reference.load_state_dict(tensors)
    with torch.no_grad():
        result = reference.eval()(images())
        torch.testing.assert_close(result, actual(images()), rtol=0, atol=1e-5)


def test_a_place_that_cannot_be_written_is_reported_in_one_line(tiny, tmp_path, method):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "step-000000007").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot write: .*free space there"):
        export_backbone(tmp_path, 7, method, tiny())


@pytest.mark.parametrize(
    "settings",
    [
        ["paws.normalized=false"],
        ["paws.prediction=true"],
        ["paws.prediction=true", "paws.activation=gelu"],
    ],
)
def test_heads_of_paws_are_beside_the_backbone(tiny, tmp_path, settings):
    support = ("support.paths=[x]", "support.classes=2", "paws.hidden=16", "paws.width=8")
    config = tiny("method=paws", *support, *settings)
    method = build_method(config).eval()
    heads = gather_tensors(method.exported_heads)
    path = write_backbone(tmp_path, 7, gather_backbone(method), config, heads)
    x = y = images(4).flatten(1)[:, :16].repeat(3, 1)
    for name, head in open_heads(path).items():
        x, y = head(x), method.student[name](y)
        assert torch.equal(x, y)
    assert x.shape == (6, 8)
    assert list(open_heads(path)) == list(method.exported_heads)
    assert not open_heads(tmp_path / "other.safetensors")
