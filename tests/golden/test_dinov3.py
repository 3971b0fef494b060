"""DINOv3 against transformers' own implementation; see `make_dinov3.py`."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinoforge.errors import UsageError
from dinoforge.models.rope import periods
from dinoforge.models.weights import load_backbone

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).parent / "data" / "dinov3"
SIZES = ("square", "wide")
# Float32 of another order of sums: 3e-6 measured, values up to 6.
TOLERANCE = 2e-5


class Golden:
    """One variant: its settings, its weights under transformers' names, its outputs."""

    def __init__(self, name):
        self.facts = json.loads((FOLDER / f"{name}.json").read_text())
        tensors = load_file(FOLDER / f"{name}.safetensors")
        self.heads = self.facts["num_attention_heads"]
        self.outputs = {n: t for n, t in tensors.items() if not n.startswith("weights/")}
        self.weights = {n[8:]: t.float() for n, t in tensors.items() if n.startswith("weights/")}


@pytest.fixture(scope="module", params=["mlp", "gated"])
def golden(request):
    return Golden(request.param)


def meta_names(weights, heads):
    """Rename to what Meta stores: one layer for queries, keys and values, masked key biases."""
    ready = {}
    for stored, tensor in weights.items():
        name = stored
        for pattern, replacement in (
            (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
            (r"^embeddings\.register_tokens", "storage_tokens"),
            (r"^embeddings\.", ""),
            (r"^layer\.", "blocks."),
            (r"\.attention\.o_proj\.", ".attn.proj."),
            (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
            *(
                [(r"\.gate_proj\.", ".w1."), (r"\.up_proj\.", ".w2."), (r"\.down_proj\.", ".w3.")]
                if "layer.0.mlp.gate_proj.weight" in weights
                else [(r"\.up_proj\.", ".fc1."), (r"\.down_proj\.", ".fc2.")]
            ),
        ):
            name = re.sub(pattern, replacement, name)
        if re.search(r"[kv]_proj", name):
            continue
        if "q_proj" in name:
            parts = [weights.get(stored.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            if parts[1] is None:
                parts[1] = torch.full_like(tensor, 7.0)  # masked
                mask = torch.cat([torch.full_like(tensor, on) for on in (1.0, 0.0, 1.0)])
                ready[re.sub(r"attention\.q_proj\.bias", "attn.qkv.bias_mask", name)] = mask
            tensor = torch.cat(parts)  # noqa: PLW2901
            name = name.replace("attention.q_proj", "attn.qkv")
        ready[name] = tensor
    ready["mask_token"] = ready["mask_token"][0]
    width = ready["cls_token"].shape[-1]
    ready["rope_embed.periods"] = periods(width // heads).bfloat16()
    ready["local_cls_norm.weight"] = torch.ones(width)
    return ready


def check(model, golden):
    for size in SIZES:
        expected = {k: golden.outputs[f"{size}/{k}"] for k in ("images", "blocks", "tokens")}
        images, num_blocks = expected["images"], len(expected["blocks"])
        with torch.inference_mode():
            layers = model.get_intermediate_layers(images, num_blocks, norm=False)
            outputs = model.forward_features(images)
            attention = model.last_attention(images)
            details = model.last_block(images)
        for (patches, cls), block in zip(layers, expected["blocks"], strict=True):
            close(cls, block[:, 0])
            close(patches, block[:, 5:])
        close(outputs["x_norm_clstoken"], expected["tokens"][:, 0])
        close(outputs["x_norm_regtokens"], expected["tokens"][:, 1:5])
        close(outputs["x_norm_patchtokens"], expected["tokens"][:, 5:])
        close(attention, golden.outputs[f"{size}/attention"])
        close(details["attention"], golden.outputs[f"{size}/attention"][:, :, 0, 5:])
        close(details["x_norm_patchtokens"], expected["tokens"][:, 5:])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def test_files_of_transformers_give_its_tokens(golden, tmp_path, caplog):
    path = tmp_path / "hf.safetensors"
    save_file(golden.weights, path)
    with caplog.at_level("INFO"):
        model, config, _ = load_backbone(path, heads=golden.heads)
    assert (config.positions, config.registers, config.norm_eps) == ("rope", 4, 1e-5)
    assert config.ffn == ("swiglu" if golden.facts["use_gated_mlp"] else "mlp")
    assert config.ffn_width == golden.facts["intermediate_size"]
    assert f"{path}: positions: rope (of the file)" in caplog.text
    check(model, golden)


def test_files_of_meta_give_the_same_tokens(golden, tmp_path, caplog):
    path = tmp_path / "meta.pth"
    torch.save(meta_names(golden.weights, golden.heads), path)
    with caplog.at_level("INFO"):
        model, config, _ = load_backbone(path, heads=golden.heads)
    assert config.positions == "rope"
    assert "left out local_cls_norm.weight" in caplog.text
    check(model, golden)


def test_other_periods_and_other_positions_are_refused(golden, tmp_path):
    tensors = meta_names(golden.weights, golden.heads)
    torch.save(tensors, tmp_path / "meta.pth")
    with pytest.raises(UsageError, match=r"positions `offset` contradict the file.* `rope`"):
        load_backbone(tmp_path / "meta.pth", heads=golden.heads, positions="offset")
    tensors["rope_embed.periods"] *= 2
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="rotary positions with periods 2 to 63"):
        load_backbone(tmp_path / "other.pth", heads=golden.heads)
