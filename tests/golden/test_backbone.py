"""The published forward pass of five small ViTs: every stored tensor, float64 and float32.

Tolerances are those of the reference (see its README): 1e-11 in float64 for outputs and 1e-12 for
positions; 2e-5 and 1e-5 in float32, some five times what two independent float32 runs measured.
"""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.models.config import VitConfig
from dinoforge.models.conversion import released_names
from dinoforge.models.position import interpolate_positions
from dinoforge.models.vit import VisionTransformer

pytestmark = pytest.mark.golden

MODELS = ("vit_plain", "vit_swiglu_chunked", "vit_reg4", "vit_reg4_swiglu", "vit_nobias_nols")
OUTPUTS = ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens", "x_prenorm")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
POSITION_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass
class Golden:
    config: dict
    cases: dict
    tensors: dict
    model: VisionTransformer
    dtype: torch.dtype

    def images(self, case):
        return self.tensors[f"{case}/x_q8"].to(self.dtype) / 32

    def check(self, key, result, tolerance=None):
        truth = self.tensors[key]
        assert result.shape == truth.shape, key
        error = (result.double() - truth).abs().max().item()
        assert error <= (tolerance or TOLERANCE)[self.dtype], (key, error)


def read_config(config, names):
    antialias = "_antialias" if config["interpolate_antialias"] else ""
    return VitConfig(
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        patch_size=config["patch_size"],
        ffn="mlp" if config["ffn_layer"] == "mlp" else "swiglu",
        ffn_ratio=config["mlp_ratio"],
        registers=config["num_register_tokens"],
        layer_scale=1.0 if any(".ls1." in name for name in names) else 0.0,
        bias=any(name.endswith("qkv.bias") for name in names),
        image_size=config["img_size"],
        positions=("offset" if config["interpolate_offset"] else "size") + antialias,
    )


@pytest.fixture(scope="module", params=MODELS)
def stored(request, golden_file):
    tensors = load_file(golden_file(f"backbone/{request.param}.safetensors"))
    facts = json.loads(golden_file("backbone/backbone.json").read_text())[request.param]
    return facts, tensors


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def golden(stored, request):
    facts, tensors = stored
    named = {n.removeprefix("param/"): t for n, t in tensors.items() if n.startswith("param/")}
    weights, _ = released_names(named, "golden")
    model = VisionTransformer(read_config(facts["config"], list(weights)))
    model.load_state_dict(weights)
    model = model.to(request.param).eval().requires_grad_(requires_grad=False)
    return Golden(facts["config"], facts["cases"], tensors, model, request.param)


def test_every_stored_output_is_reproduced(golden):
    num_checked = 0
    for case in golden.cases:
        for kind in ("nomask", "mask"):
            keys = [k for k in OUTPUTS if f"{case}/{kind}/{k}" in golden.tensors]
            if not keys:
                continue
            masks = golden.tensors[f"{case}/mask"] if kind == "mask" else None
            out = golden.model.forward_features(golden.images(case), masks)
            for key in keys:
                golden.check(f"{case}/{kind}/{key}", out[key])
                num_checked += 1
    assert num_checked >= 3 * len(golden.cases)


def test_positions_are_resampled_as_published(golden):
    patch = golden.config["patch_size"]
    for case, facts in golden.cases.items():
        result = interpolate_positions(
            golden.model.pos_embed,
            facts["height"] // patch,
            facts["width"] // patch,
            golden.model.config.positions,
        )
        golden.check(f"{case}/pos_embed_interpolated", result, POSITION_TOLERANCE)


@pytest.mark.parametrize("case", ["native", "rect"])
def test_tokens_before_the_first_block(golden, case):
    golden.check(f"{case}/tokens_after_pos_embed", golden.model.tokens(golden.images(case)))


def test_intermediate_layers(golden):
    images, depth = golden.images("rect"), golden.config["depth"]
    layers = golden.model.get_intermediate_layers(images, depth, norm=False)
    for index, (patches, cls) in enumerate(layers):
        golden.check(f"rect/inter_norm0/block{index}/patch", patches)
        golden.check(f"rect/inter_norm0/block{index}/cls", cls)
    wanted = [1, depth - 1]
    layers = golden.model.get_intermediate_layers(images, wanted, reshape=True)
    for index, (patches, cls) in zip(wanted, layers, strict=True):
        golden.check(f"rect/inter_norm1_reshape/block{index}/patch", patches)
        golden.check(f"rect/inter_norm1_reshape/block{index}/cls", cls)


def test_first_block_in_pieces(golden):
    block = golden.model.blocks[0]
    x_BND = golden.tensors["block0/in"].to(golden.dtype)
    shape = x_BND.shape
    x_TD = x_BND.flatten(0, 1)
    norm1 = block.norm1(x_TD)
    attn = block.attn(norm1, [shape[:2]])
    after = x_TD + block.ls1(attn)
    mlp = block.mlp(block.norm2(after))
    pieces = {"norm1": norm1, "attn": attn, "after_attn": after, "mlp": mlp}
    for name, result in pieces.items():
        golden.check(f"block0/{name}", result.unflatten(0, shape[:2]))
    (out,) = block([x_BND])
    golden.check("block0/out", out)


@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
def test_crops_of_several_sizes_in_one_pass(golden, packed):
    cases = ("native", "small", "rect")
    out = golden.model.forward_features_list(
        [golden.images(case) for case in cases],
        [golden.tensors[f"{case}/mask"] for case in cases],
        packed=packed,
    )
    for case, result in zip(cases, out, strict=True):
        golden.check(f"{case}/mask/x_norm_patchtokens", result["x_norm_patchtokens"])


@pytest.mark.parametrize("backend", ["plain"])
def test_other_attention_back_ends(golden, backend):
    golden.model.set_attention(backend)
    try:
        out = golden.model.forward_features(golden.images("large"))
    finally:
        golden.model.set_attention("sdpa")
    golden.check("large/nomask/x_prenorm", out["x_prenorm"])
