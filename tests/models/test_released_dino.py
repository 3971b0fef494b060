"""Files with the names of DINO's releases: backbones, whole checkpoints, ResNet-50."""

import argparse

import pytest
import torch
from torch import nn

from dinoforge.encoders.backbone import open_backbone
from dinoforge.errors import UsageError
from dinoforge.exports.export import export_backbone
from dinoforge.exports.source import open_source
from dinoforge.models.config import VitConfig
from dinoforge.models.pooled.files import is_pooled, load_pooled, save_pooled
from dinoforge.models.pooled.resnet import ResNet50
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone

WIDTH = 192
DEPTH = 12


def vit_shapes():
    """Names and shapes of ``dino_deitsmall16_pretrain.pth``, at the width of ViT-Ti."""
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + 14**2, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 16, 16), "patch_embed.proj.bias": (WIDTH,)}
    for block in range(DEPTH):
        for name, (after, before) in layers.items():
            shapes[f"blocks.{block}.{name}.weight"] = (after * WIDTH, before * WIDTH)
            shapes[f"blocks.{block}.{name}.bias"] = (after * WIDTH,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{p}": (WIDTH,) for p in ("weight", "bias")}
    return shapes | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}


def resnet_shapes():
    """Names and shapes of ``dino_resnet50_pretrain.pth``: torchvision's without ``fc``."""

    def norm(name, channels):
        shapes = {f"{name}.{p}": (channels,) for p in ("weight", "bias")}
        shapes |= {f"{name}.running_{p}": (channels,) for p in ("mean", "var")}
        return shapes | {f"{name}.num_batches_tracked": ()}

    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        inside = 32 * 2**stage
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            convs = ((inside, before, 1), (inside, inside, 3), (4 * inside, inside, 1))
            for number, (after, channels, side) in enumerate(convs, start=1):
                shapes[f"{at}.conv{number}.weight"] = (after, channels, side, side)
                shapes |= norm(f"{at}.bn{number}", after)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * inside, before, 1, 1)
                shapes |= norm(f"{at}.downsample.1", 4 * inside)
            before = 4 * inside
    return shapes


def head_shapes(width, *, with_norms):
    """Names and shapes of a head, small; its last layer has the old weight normalization."""
    shapes = {}
    for at, before in zip((0, 3, 6) if with_norms else (0, 2, 4), (width, 8, 8), strict=True):
        shapes |= {f"mlp.{at}.weight": (8, before), f"mlp.{at}.bias": (8,)}
    if with_norms:
        shapes |= {f"mlp.1.{p}": (8,) for p in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"last_layer.weight_g": (16, 1), "last_layer.weight_v": (16, 8)}


def tensors_of(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        is_count = name.endswith("num_batches_tracked")
        made[name] = torch.tensor(7) if is_count else 0.1 * torch.rand(shape, generator=generator)
    return made


def checkpoint(shapes, width, *, with_norms):
    """A whole checkpoint as ``main_dino.py`` saves it; its teacher, too."""
    head = tensors_of(head_shapes(width, with_norms=with_norms), 0)
    networks = [tensors_of(shapes, seed) for seed in (1, 2)]
    student, teacher = (
        {f"backbone.{n}": t for n, t in network.items()} | {f"head.{n}": t for n, t in head.items()}
        for network in networks
    )
    ddp = "module." if with_norms else ""  # of a teacher with batch normalization
    whole = {
        "student": {f"module.{name}": t for name, t in student.items()},
        "teacher": {f"{ddp}{name}": t for name, t in teacher.items()},
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.0005, local_crops_scale=(0.05, 0.4)),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": {"scale": 65536.0},
    }
    return whole, networks[1]


def assert_same(model, tensors, also=()):
    state = model.state_dict()
    assert state.keys() == {*tensors, *also}
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("whole", [False, True])
def test_a_released_vit_opens_with_the_tensors_of_its_teacher(tmp_path, whole):
    content, teacher = checkpoint(vit_shapes(), WIDTH, with_norms=False)
    torch.save(content if whole else teacher, tmp_path / "a.pth")
    model, config, _, _ = open_backbone(tmp_path / "a.pth")
    assert_same(model, teacher, also=["mask_token"])
    assert (config.heads, config.layer_scale, config.positions) == (3, 0, "offset")


@pytest.mark.parametrize("whole", [False, True])
def test_a_released_resnet_opens_with_the_tensors_of_its_teacher(tmp_path, whole):
    content, teacher = checkpoint(resnet_shapes(), 2048, with_norms=True)
    torch.save(content if whole else teacher, tmp_path / "a.pth")
    assert is_pooled(tmp_path / "a.pth")
    model, _ = load_pooled(tmp_path / "a.pth")
    assert_same(model, teacher)


def load_as_dino(model, path, key):
    """Load weights by the rules of ``load_pretrained_weights`` of DINO's utils.py."""
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    tensors = tensors.get(key, tensors)
    for prefix in ("module.", "backbone."):
        tensors = {name.replace(prefix, ""): tensor for name, tensor in tensors.items()}
    return model.load_state_dict(tensors, strict=False)


class Named(nn.Module):
    """A module with the tensors of a released model: names with dots are modules."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            at = self
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, nn.Module())
                at = getattr(at, part)
            at.register_buffer(last, torch.zeros(shape))


def test_a_vit_of_ours_opens_in_the_scripts_of_dino(tmp_path):
    sizes = {"width": WIDTH, "heads": 3, "depth": DEPTH, "patch_size": 16, "layer_scale": 0.0}
    backbone = build_vit(VitConfig(**sizes, init="xavier"))
    save_backbone(tmp_path / "a.safetensors", backbone)
    source = open_source(tmp_path / "a.safetensors")
    exported = export_backbone(source, "dino", tmp_path / "out")
    assert exported.use.endswith("--arch vit_tiny --patch_size 16")
    released = Named(vit_shapes())
    result = load_as_dino(released, tmp_path / "out/checkpoint.pth", "teacher")
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    state = backbone.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in released.state_dict().items())


def test_what_the_scripts_of_dino_do_not_have_is_refused(tmp_path):
    sizes = {"width": WIDTH, "heads": 3, "depth": 2, "patch_size": 16, "registers": 4}
    save_backbone(tmp_path / "a.safetensors", build_vit(VitConfig(**sizes, init="xavier")))
    source = open_source(tmp_path / "a.safetensors")
    reported = "dino does not support other sizes than .*, or registers, or LayerScale - "
    with pytest.raises(UsageError, match=reported):
        export_backbone(source, "dino", tmp_path / "out")


def test_a_network_without_patches_is_refused_where_they_are_needed(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(tensors_of(resnet_shapes(), 0), path)
    with pytest.raises(UsageError, match="without patch tokens") as caught:
        open_source(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_resnet_of_ours_has_the_names_that_the_scripts_of_dino_read(tmp_path):
    network = ResNet50()
    network.init_weights(0)
    path = tmp_path / "a.safetensors"
    save_pooled(path, network, network.state_dict(), {})
    tensors, _ = load_pooled(path)
    torch.save({"teacher": tensors.state_dict()}, tmp_path / "checkpoint.pth")
    released = Named(resnet_shapes())
    result = load_as_dino(released, tmp_path / "checkpoint.pth", "teacher")
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(
        released.layer4.get_submodule("2").conv3.weight, network.layer4[2].conv3.weight
    )
