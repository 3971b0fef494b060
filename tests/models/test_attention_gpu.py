"""Back ends on a GPU: `varlen` and `xformers` against `sdpa` and `plain`, in both directions."""

import pytest
import torch

from dinoforge.models.attention import attend, token_counts
from dinoforge.models.attention_choice import (
    AGREEMENT,
    AttentionProblem,
    choose_attention,
    relative_difference,
)
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LAYOUTS = {
    "ViT-S/14, batch 4": [(8, 257), (32, 50)],
    "registers": [(4, 261), (16, 54)],
    "short": [(64, 17), (128, 5)],
    "no local crops": [(8, 257), (0, 50)],
    "nothing": [(0, 257), (0, 50)],
}
layouts = pytest.mark.parametrize("shapes", LAYOUTS.values(), ids=LAYOUTS.keys())


def needs(backend):
    if backend == "xformers":
        pytest.importorskip("xformers.ops", reason="xformers is not installed")


def both_directions(shapes, backend, dtype, heads=6):
    generator = torch.Generator("cuda").manual_seed(0)
    size = (sum(token_counts(shapes)), 4, heads, 64)
    drawn = torch.randn(size, generator=generator, device="cuda").to(dtype)
    qkv = drawn[:, :3].clone().requires_grad_()
    out = attend(qkv, shapes, backend)
    (gradient,) = torch.autograd.grad(out, qkv, drawn[:, 3].contiguous())
    return [out.detach(), gradient]


@layouts
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["plain", "varlen", "xformers"])
def test_back_ends_agree_in_half_precision(backend, dtype, shapes):
    needs(backend)
    actual, expected = (both_directions(shapes, name, dtype) for name in (backend, "sdpa"))
    assert actual[0].dtype == dtype
    assert relative_difference(actual, expected) <= AGREEMENT[dtype]


@layouts
@pytest.mark.parametrize("backend", ["plain", "xformers"])
def test_back_ends_agree_in_float32(backend, shapes):
    needs(backend)
    actual, expected = (both_directions(shapes, name, torch.float32) for name in (backend, "sdpa"))
    assert relative_difference(actual, expected) <= AGREEMENT[torch.float32]


@pytest.mark.parametrize("backend", ["sdpa", "varlen", "xformers"])
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
def test_a_model_gives_the_same_features_by_every_back_end(backend, packed):
    needs(backend)
    config = VitConfig(width=384, depth=2, heads=6, registers=4, layer_scale=1.0)
    model = build_vit(config, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    images = [
        torch.randn(batch, 3, side, side, generator=generator, device="cuda")
        for batch, side in ((4, 224), (16, 98))
    ]
    actual = []
    for name in (backend, "plain"):
        model.set_attention(name)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = model.forward_features_list(images, [None, None], packed=packed)
        actual.append([x["x_prenorm"].detach() for x in out])
    assert relative_difference(*actual) <= AGREEMENT[torch.bfloat16]


def both_passes(block, xs):
    """Outputs of a block, and the gradient of its first weights."""
    block.zero_grad()
    out = block(xs, packed=True)
    sum((x * x.detach().cos()).sum() for x in out).backward()
    return [*(x.detach() for x in out), block.attn.qkv.weight.grad.clone()]


# The compiler warns of what could be faster on this card (TF32, too few multiprocessors).
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_a_block_compiles_without_a_graph_break(backend):
    torch.compiler.reset()
    model = build_vit(VitConfig(width=384, depth=2, heads=6, layer_scale=1.0), device="cuda")
    model.set_attention(backend)
    xs = [torch.randn(4, 257, 384, device="cuda"), torch.randn(16, 50, 384, device="cuda")]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        expected = both_passes(model.blocks[0], xs)
        model.blocks[0].compile(fullgraph=True)
        actual = both_passes(model.blocks[0], xs)
    assert relative_difference(actual, expected) <= AGREEMENT[torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_auto_probes_and_takes_one_that_runs(dtype):
    problem = AttentionProblem(
        shapes=((16, 257), (64, 50)), heads=6, channels=64, dtype=dtype, device=torch.device("cuda")
    )
    choice = choose_attention("auto", problem)
    assert choice.backend in choice.milliseconds
    assert "sdpa" in choice.milliseconds
    assert not any("differs" in why for why in choice.refused.values())
